"""Words that join others and show nothing, by language: nobody means one by a misspelled word.

Of at least `clipsearch.vocabulary.SHORTEST_CORRECTED` letters, as `clipsearch.text.words` gives
them: in lower case and without accents. After Snowball's lists of stop words.
"""

from collections.abc import Mapping
from types import MappingProxyType

_BY_LANGUAGE = {
    "en": "about above after again against also among another because been before behind being"
    " below beneath beside between beyond both does doing down during each even ever every"
    " from further have having here hers herself himself into itself just like made many"
    " more most much myself near next none only onto other others over same several shall"
    " should some such than that their theirs them themselves then there these they this"
    " those through toward towards under until upon very were what when where which while"
    " whom whose will with within without would your yours",
    "es": "algo algunas algunos ante antes aquel aquella como contra cual cuando desde donde"
    " durante ellas ellos entre esta estaba estado estan estas este esto estos fueron"
    " hasta mucho muchos nada nosotros otra otras otro otros para pero poco porque quien"
    " sido sobre suya suyo tambien tanto tiene tienen todo todos unos vosotros",
    "fr": "alors apres assez aucun aussi autour autre autres avant avec avoir avait cela celle"
    " celui cette ceux chaque chez comme contre dans depuis derriere deux devant donc elle"
    " elles encore entre etaient etait etre font leur leurs mais meme moins notre nous"
    " parmi pendant plus pour puis quand quel quelle quelque sans sont sous tous tout"
    " toute toutes tres vers votre vous",
    "it": "agli alla alle allo altra altre altri altro anche ancora avere aveva avevano come"
    " contro cosa dagli dalla dalle dallo degli della delle dello dentro dopo dove durante"
    " ecco erano essere hanno loro mentre molti molto negli nella nelle nello nostra"
    " nostro ogni oppure perche pero poco prima quale quando quanto quella quelle quello"
    " questa queste questi questo sempre senza siamo sono sopra sotto stata stato sugli"
    " sulla sulle sullo tutta tutte tutti tutto verso",
    "nl": "alle alleen alles andere anderen bijna binnen boven buiten daar deze door echter"
    " eens elke enkele geen haar hebben heeft hier hoewel iedere iets kunnen langs maar"
    " meer mijn moet naar naast nadat niet niets nooit omdat onder onze over rond sommige"
    " staan tegen terwijl toch toen totdat tussen vanaf veel verder voor vooral waar waren"
    " wanneer want weer welke werd werden wordt zeer zich zijn zoals zonder zulke",
    "pt": "alem algo algum alguma alguns ante antes apenas aquela aquele aqueles aqui assim"
    " cada como contra dela dele deles depois desde dessa desse desta deste disso durante"
    " elas eles embora enquanto entre eram essa esse esta estao estas estava este estes"
    " estou foram isso isto mais mesmo muita muito muitos nada nela nele nessa nesta neste"
    " nosso onde outra outras outro outros para pela pelas pelo pelos perto porque quais"
    " qual quando quem sempre seus sobre suas tambem tinha toda todas todo todos",
    "sv": "aldrig alla allt andra annan annat bakom bara blev blir bland bredvid dess dessa"
    " dessutom detta efter eller emot endast enligt eftersom framfor fran genom hade hans"
    " hela henne hennes inga ingen inget innan inom inte kring mellan mera mycket nagon"
    " nagot nara nasta nere nedanfor ocksa olika ovan ovanfor samma samt sedan sina sitt"
    " sjalv skall skulle till under utan utanfor vara varit varje vars vart vilka vilken"
    " vilket",
}
FUNCTION_WORDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {language: frozenset(words.split()) for language, words in _BY_LANGUAGE.items()}
)
