"""The curl lines of docs/serving.md, run as they stand."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fed_indexes import fed
from PIL import Image
from running_service import RunningService
from small_pictures import paint

from clipsearch.server.settings import DEFAULT_HOST, DEFAULT_PORT, ServerSettings

PAGE = Path(__file__).resolve().parents[3] / "docs" / "serving.md"
ROWS = "image,caption,class\nbeach/0001.jpg,two dogs,beach\n"
TOKEN = "0123456789abcdef"
# An answer of 400 and more ends the script, and is shown.
FAILING = 'set -e\ncurl() { command curl --fail-with-body -sS -w "\\n%{http_code}\\n" "$@"; }\n'


def script(url: str) -> str:
    """All shell blocks with curl, for a service that runs already, elsewhere and with TOKEN."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [
        line
        for block in blocks
        if "curl " in block
        for line in block.splitlines()
        if "clipsearch serve" not in line
    ]
    text = "\n".join(lines)
    address = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
    assert text.count("curl ") == text.count(address) == 6
    return FAILING + text.replace(address, url).replace("…", TOKEN)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_curl_lines_run_as_they_stand(encoder_folder: Path, tmp_path: Path) -> None:
    paint(tmp_path / "beach/0001.jpg", 1, (64, 48))
    paint(tmp_path / "picture.jpg", 2, (64, 48))
    (tmp_path / "photos.csv").write_text(ROWS, encoding="utf-8")
    index = fed(tmp_path / "photos.csv", str(tmp_path / "photos.index"), encoder_folder, tmp_path)
    settings = ServerSettings(
        index, tmp_path / "cache", write_token=TOKEN, uploads=tmp_path / "uploads"
    )
    with RunningService(settings) as running:
        ran = subprocess.run(
            ["bash", "-c", script(running.url)],
            cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr
        by_words, by_image, changed, made, removed = re.split(r"\n(20\d)\n", ran.stdout)[:-1:2]
        assert json.loads(by_words)["facets"] == {"class": [{"value": "beach", "count": 1}]}
        assert json.loads(by_image)["query"]["text"] == "at night"
        assert json.loads(changed)["captions"] == ["two dogs"]
        assert json.loads(made)["id"] == "cat"
        assert removed == ""
        assert running.get("/v1/images/cat").status_code == 404
    with Image.open(tmp_path / "small.webp") as image:
        assert image.format == "WEBP"
