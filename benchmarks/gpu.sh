#!/usr/bin/env bash
# All that only a GPU can show, in under 8 minutes: the tests that skip without one, training, GradCache, encoding.
#
#   benchmarks/gpu.sh                    # prints, and keeps benchmarks/results/gpu-NAME-OF-THE-DEVICE.txt
#   OUT=folder benchmarks/gpu.sh         # keeps it there
#   benchmarks/gpu.sh --dry-run          # the same road on the CPU, at sizes that say nothing
#
# PYTHON names the interpreter (.venv/bin/python, else python3). A part that fails, or that runs out of its
# time, is said, and the next one begins; the exit code is 1 where one failed.
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
command -v "$python" > /dev/null || python=python3
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
keep=$(mktemp -d)
trap 'rm -rf "$keep"' EXIT

device=cuda
if [ "${1:-}" = --dry-run ]; then
  device=cpu
elif [ $# -gt 0 ]; then
  echo "$0: unknown argument $1; there is --dry-run alone" >&2
  exit 2
fi
name=$("$python" -c '
import sys, torch
if sys.argv[1] == "cuda":
    if not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} finds no CUDA device; try the road with --dry-run")
    print(torch.cuda.get_device_name())
else:
    print("no GPU (dry run)")
' "$device") || exit 1
results=${OUT:-benchmarks/results}
mkdir -p "$results"
table="$results/gpu-$(printf %s "$name" | tr -cs '[:alnum:]' '-' | sed 's/-$//').txt"
: > "$table"

failed=0
# part TITLE SECONDS COMMAND…
part() {
  local title=$1 seconds=$2 started=$SECONDS
  shift 2
  # The eight minutes are a GPU's; a machine without one may be busy.
  [ "$device" = cuda ] || seconds=$((5 * seconds))
  printf '\n== %s\n' "$title"
  timeout --kill-after=5 "$seconds" "$@" 2>&1
  local code=$?
  if [ "$code" -ne 0 ]; then
    failed=1
    printf '%s: failed (exit code %s; 124 is: longer than %s s)\n' "$title" "$code" "$seconds"
  fi
  printf '(%s s)\n' "$((SECONDS - started))"
}

all() {
  printf '%s, %s cores, %s\n' "$name" "$(nproc)" "$(date -u +%F)"
  if [ "$device" = cuda ]; then
    part "tests" 100 "$python" -m pytest -q -p no:cacheprovider -k "gpu or cuda" \
      tests/finetune/training/test_waiting.py tests/finetune/training/test_gradcache.py \
      tests/finetune/training/test_batch_size.py tests/finetune/data/test_transfer.py \
      tests/finetune/data/test_augment.py tests/clipsearch/encoder/test_torch_towers.py
    part "training, ViT-B/32" 125 "$python" benchmarks/training.py --device cuda --keep "$keep"
    part "training, 14 million parameters" 105 "$python" benchmarks/training.py --device cuda --model small \
      --images 2048 --later 6 --seconds 100 --ways ours "ours, compiled" "ours, graphs" bare --keep "$keep"
    part "GradCache" 70 "$python" benchmarks/gradcache_memory.py --device cuda --model vit-b-32 --precision bf16 \
      --sizes 256 1024 4096 --chunk-size 256 --methods GradCache
    part "encoding" 75 "$python" benchmarks/encoding.py --device cuda --keep "$keep"
  else
    part "tests" 110 "$python" -m pytest -q -p no:cacheprovider -k "gpu or cuda" \
      tests/finetune/data/test_transfer.py tests/clipsearch/encoder/test_torch_towers.py
    part "training" 120 "$python" benchmarks/training.py --model tiny --images 32 --batch-size 8 \
      --later 1 --rounds 1 --threads 1 --ways ours bare --keep "$keep"
    part "GradCache" 90 "$python" benchmarks/gradcache_memory.py --model tiny --precision bf16 \
      --sizes 4 8 --chunk-size 4 --methods GradCache
    part "encoding" 90 "$python" benchmarks/encoding.py --device torch-cpu --model tiny --images 32 \
      --batch-size 8 --workers 1 --keep "$keep"
  fi
  printf '\nin %s s\n' "$SECONDS"
  return "$failed"
}

all | tee -a "$table"
code=${PIPESTATUS[0]}
echo "kept: $table"
exit "$code"
