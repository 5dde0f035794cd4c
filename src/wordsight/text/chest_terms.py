"""The vocabulary of chest x-ray reports: findings and their wordings, structures with their normal states, places.

Wordings are separated by " | ", lower-case, singular; plurals are recognised by `lemma`. Hyphens and slashes of a
report are read as spaces ("x-ray" is "x ray"). The longest wording wins wherever several start at one word.
"""

from __future__ import annotations

from itertools import product

FINDINGS = {
    "pleural effusion": "pleural effusion | effusion | pleural fluid | loculated fluid | hydrothorax"
    " | fluid in the fissure",
    "pericardial effusion": "pericardial effusion",
    "pneumothorax": "pneumothorax | pleural air | hydropneumothorax",
    "cardiomegaly": "cardiomegaly | cardiac enlargement | heart enlargement | enlargement of the cardiac silhouette"
    " | enlarged cardiac silhouette | enlarged heart | heart large | atrial enlargement | ventricular enlargement"
    " | ventricular hypertrophy | ventricular prominence",
    "consolidation": "consolidation | airspace consolidation | air space consolidation | consolidative | consolidated",
    "atelectasis": "atelectasis | atelectatic | volume loss | lobar collapse | lung collapse | collapse of the lung",
    "pulmonary edema": "pulmonary edema | edema | interstitial edema | alveolar edema",
    "pulmonary artery enlargement": "pulmonary artery enlargement | enlarged pulmonary artery"
    " | dilated pulmonary artery"
    " | prominent pulmonary artery | pulmonary artery prominence | prominence of the pulmonary artery",
    "heart failure": "heart failure | congestive failure | chf | cardiac decompensation",
    "vascular congestion": "vascular congestion | pulmonary congestion | venous congestion | congestion | cephalization"
    " | vascular prominence | vascular engorgement | venous engorgement | venous hypertension"
    " | vascular redistribution",
    "opacity": "opacity | opacification | airspace disease | air space disease | airspace process | density | haziness"
    " | air space process | ground glass",
    "infiltrate": "infiltrate | infiltration | infiltrative process",
    "pneumonia": "pneumonia | pneumonitis | bronchopneumonia | infection | infectious process | infectious etiology"
    " | infectious | pneumonic",
    "nodule": "nodule | pseudonodule | nodularity | nodular density | nodular opacity",
    "mass": "mass | masslike | mass like | tumor | neoplasm",
    "malignancy": "malignancy | malignant | metastasis | metastatic | carcinoma | cancer | neoplastic",
    "granuloma": "granuloma | granulomatous | granulomatous disease | calcified granuloma | calcified granulomatous"
    " | granulomatous calcification",
    "calcification": "calcification | calcified | calcific | calcium",
    "emphysema": "emphysema | emphysematous | bulla | bullous | bleb",
    "subcutaneous emphysema": "subcutaneous emphysema | subcutaneous air | subcutaneous gas | soft tissue emphysema",
    "obstructive disease": "copd | chronic obstructive pulmonary disease | chronic obstructive lung disease"
    " | obstructive pulmonary disease | obstructive lung disease",
    "fibrosis": "fibrosis | fibrotic | scar | scarring | fibronodular",
    "interstitial disease": "interstitial opacity | interstitial disease | interstitial lung disease | reticular"
    " | interstitial thickening | interstitial prominence | interstitial pattern | interstitial infiltrate"
    " | interstitial change | interstitial process | reticulonodular | septal line | kerley | interstitial density"
    " | prominence of the interstitium",
    "bronchiectasis": "bronchiectasis | bronchiectatic",
    "cavity": "cavity | cavitary | cavitation",
    "tuberculosis": "tuberculosis | tuberculous | tb",
    "pleural thickening": "pleural thickening | thickening of the pleura | apical thickening | pleural plaque"
    " | pleural scarring thickening | apical cap | apical capping | fissural thickening",
    "lymphadenopathy": "lymphadenopathy | adenopathy | enlarged lymph node",
    "hilar enlargement": "hilar prominence | hilar enlargement | hilar fullness",
    "mediastinal widening": "mediastinal widening | widened mediastinum",
    "hyperinflation": "hyperinflation | hyperexpansion | hyperexpanded | hyperinflated | hyperaeration | hyperaerated"
    " | overinflated | hyperlucent | hyperlucency | hyperdistention | air trapping | overexpanded",
    "low lung volumes": "low lung volume | low volume | hypoinflation | hypoinflated | hypoventilation"
    " | hypoventilated | low inspiratory volume | diminished lung volume | shallow inspiration | poor inspiration"
    " | hypoventilatory | hypoaeration | hypoexpanded | hypoexpansion | low inspiration"
    " | underinflated | underinflation | under inflated | underexpanded | under expanded",
    "elevated diaphragm": "eventration",
    "costophrenic angle blunting": "costophrenic angle blunting | costophrenic blunting",
    "hernia": "hernia | hiatal hernia | hiatus hernia",
    "fracture": "fracture | fractured",
    "bone deformity": "deformity | wedging | wedge compression | anterior compression",
    "bone abnormality": "bone destruction | bone lesion | osseous lesion | lytic lesion | sclerotic lesion",
    "degenerative change": "degenerative | degenerative change | degenerative disease | spondylosis | osteophyte"
    " | osteophytic | osteophytosis | arthritis | arthritic | arthrosis | osteoarthritis | spurring | spur"
    " | hyperostosis | dish | endplate change | disc disease | joint disease | disc space narrowing | arthropathy"
    " | spondylitic | osteoarthritic | spondylotic | syndesmophyte",
    "scoliosis": "scoliosis | scoliotic | dextroscoliosis | levoscoliosis | curvature"
    " | dextrocurvature | levocurvature",
    "kyphosis": "kyphosis | kyphotic | kyphotic curvature | kyphoscoliosis",
    "osteopenia": "osteopenia | osteopenic | osteoporosis | osteoporotic | demineralization | demineralized",
    "tortuous aorta": "tortuous | tortuosity | ectatic | ectasia | ectatic aorta | unfolded | unfolding | uncoiled"
    " | uncoiling | aortic elongation",
    "atherosclerosis": "atherosclerosis | atherosclerotic | arteriosclerosis | arteriosclerotic | atheromatous",
    "aneurysm": "aneurysm | aneurysmal",
    "pneumoperitoneum": "pneumoperitoneum | free air | free intraperitoneal air | subdiaphragmatic air"
    " | free subdiaphragmatic air | subdiaphragmatic free air | intraperitoneal air | free peritoneal air",
    "pneumomediastinum": "pneumomediastinum | mediastinal air",
    "foreign body": "foreign body | bullet | shrapnel | metallic fragment",
    "device": "device | pacemaker | pacer | defibrillator | aicd | icd | catheter | picc | port | port a cath"
    " | portacath | mediport | central line | venous line | arterial line | picc line | jugular line | subclavian line"
    " | tube | clip | wire | stent | prosthesis | prosthetic | valve replacement | hardware | screw | rod"
    " | stimulator | staple | suture | implant | drain | shunt | lead | electrode | filter | surgical xxxx"
    " | prosthetic valve | artificial valve | fixation",
    "postsurgical change": "postsurgical | post surgical | postoperative change | postop change | sternotomy | cabg"
    " | bypass graft | bypass | mastectomy | lobectomy | cholecystectomy | thoracotomy | pneumonectomy | resection"
    " | surgical change | vertebroplasty | kyphoplasty | spinal fusion | post operative change | postoperative",
}
"""Finding -> its wordings."""

SEVERAL = {
    "nodular opacity": ("nodule", "opacity"),
    "nodular density": ("nodule", "opacity"),
    "nodular airspace disease": ("nodule", "opacity"),
    "hydropneumothorax": ("pleural effusion", "pneumothorax"),
    "interstitial infiltrate": ("interstitial disease", "infiltrate"),
    "pleural scarring thickening": ("fibrosis", "pleural thickening"),
    "kyphoscoliosis": ("kyphosis", "scoliosis"),
}
"""Wordings that state more than one finding."""

NOT_FINDINGS = (
    "mass effect | cystic fibrosis | bone density | bone mineral density | joint effusion | soft tissue edema"
    " | breast implant"
    " | clinical infection | tube current | free fluid | nipple marker | nipple shadow | low density | port site"
    " | mediastinal fat | epicardial fat | pericardial fat | leading | body mass | lead to | can lead"
)
"""Wordings that contain a finding's word and are none."""

_DISEASE = ["disease", "abnormality", "process", "finding", "pathology", "change"]
_CHEST = (
    "cardiopulmonary | pulmonary | intrathoracic | thoracic | chest | cardiac | cardiothoracic | lung | cardiovascular"
    " | cardiac or pulmonary | pulmonary or cardiac | pleural | cardio pulmonary | pulmonary parenchymal"
    " | radiographic cardiopulmonary | cardiac, pulmonary or pleural | cardiopulmonary disease | abdominal"
)
_ONLY_ACUTE = "| radiographic | focal | appearing | preoperative | process"
_BONES = "osseous | osseus | bony | bone | skeletal | bony thoracic | osseous thoracic | musculoskeletal"
_BONES += " | bony or soft tissue"


def wordings(text: str) -> list[str]:
    """The single wordings of a table's entry."""
    return [part.strip() for part in text.split("|")]


def general_findings() -> dict[str, str]:
    """Wordings such as "acute cardiopulmonary disease" and "acute bony abnormality"."""
    where_acute = [*wordings(_CHEST), *wordings(_ONLY_ACUTE)]
    acute = product(("acute", "active", "acute or active"), where_acute, _DISEASE)
    bones = product(("", "acute", "acute or"), wordings(_BONES), [*_DISEASE, "injury"])
    found = {" ".join(" ".join(words).split()): "acute disease" for words in acute}
    found |= {" ".join(words).strip(): "bone abnormality" for words in bones}
    return found | {"acute airspace disease": "opacity", "active airspace disease": "opacity"}


def general_denials() -> dict[str, str]:
    """Wordings such as "cardiopulmonary abnormality", which mean something definite only where they are denied."""
    return {f"{where} {what}": "acute disease" for where, what in product(wordings(_CHEST), _DISEASE[:-1])}


def normal_examinations() -> list[str]:
    """Wordings such as "normal chest", which deny acute disease altogether."""
    state = "normal | negative | unremarkable | essentially normal"
    kind = "| preoperative | pa and lateral | two view | 2 view | frontal | screening | portable | portable ap"
    study = (
        "chest | exam | examination | study | chest x xxxx | chest x ray | chest radiograph | chest exam | radiograph"
        " | chest examination | chest film | x xxxx of chest | x ray of chest | x xxxx chest"
    )
    before = [" ".join(parts) for parts in product(wordings(state), wordings(kind), wordings(study))]
    after = [f"{s} {verb} {w}" for s, verb, w in product(wordings(study)[:4], ("is", ""), wordings(state)[:3])]
    return [" ".join(text.split()) for text in (*before, *after)]


SUBJECTS = {
    "heart": "heart | heart size | cardiac | cardiac silhouette | cardiac size | cardiac contour | heart silhouette"
    " | size of the heart | cardiac shadow | cardiothymic silhouette | cardiac and",
    "heart and mediastinum": "cardiomediastinal | cardiomediastinal silhouette | cardiomediastinal contour"
    " | cardio mediastinal silhouette | cardio mediastinal contour | cardiopulmonary silhouette"
    " | cardiomediastinal structure | cardiomediastinum | cardiac mediastinal silhouette | cardiac mediastinal contour",
    "mediastinum": "mediastinum | mediastinal | mediastinal contour | mediastinal silhouette | mediastinal structure"
    " | mediastinal size | mediastinal shadow",
    "lungs": "lung | lung field | lung parenchyma | lung zone | lung apex | lung base",
    "volumes": "lung volume | inspiratory volume | volume",
    "vascularity": "vascularity | pulmonary vascularity | vasculature | pulmonary vasculature | pulmonary vascular"
    " | pulmonary vessel | vascular pattern | pulmonary vascular marking | vascular marking | central vasculature"
    " | pulmonary xxxx vascularity | pulmonary and vasculature | pulmonary vascular pattern",
    "hila": "hilum | hilar contour | hilar structure | hilar shadow | hilar region",
    "bones": "osseous structure | bony structure | bony thorax | osseous thorax | skeletal structure | bone | skeleton"
    " | bony skeleton | bony architecture | osseous | thoracic skeleton | bony thoracic structure | bony thoracic cage"
    " | bony elements | osseous element | thoracic spine | osseus structure",
    "angles": "costophrenic angle | costophrenic sulcus | costophrenic recess | costophrenic xxxx | costophrenic"
    " | cp angle",
    "diaphragm": "diaphragm | hemidiaphragm",
    "pleura": "pleural space | pleura",
    "markings": "marking | perihilar marking | interstitial marking | interstitium | bronchovascular marking"
    " | lung marking | pulmonary marking"
    " | bronchovascular interstitial marking | interstitial lung marking | reticular marking | interstitial",
}
"""Structures whose state says whether a finding is there."""

STATES = {
    "normal": "normal | within normal limit | unremarkable | wnl | not enlarged | normal limit"
    " | of normal size | within limit of normal | within limit",
    "clear": "clear | well aerated and clear",
    "intact": "intact | without abnormality",
    "sharp": "sharp",
    "top normal": "top normal | upper limit of normal | upper limit normal | upper normal | borderline"
    " | top limit of normal | high normal | borderline enlarged | borderline prominent | borderline in size"
    " | at the upper limit of normal | upper limit | borderline normal | borderline enlargement"
    " | borderline top normal | upper limit for normal | top of normal",
    "enlarged": "large | enlarged | enlargement | prominent | prominence | widened | widening | enlarge"
    " | dilated | fullness",
    "congested": "congested | engorged | indistinct | cephalized | engorgement | accentuated",
    "low": "low | diminished | decreased | reduced",
    "elevated": "elevated | elevation",
    "flattened": "flattened | flattening | flat",
    "blunted": "blunted | blunting | obscured",
    "increased": "increased | increase | coarse | coarsened | thickened | accentuation | diffuse | chronic",
    "same": "stable | unchanged | similar",
}
"""Words for states; "same" says nothing of a finding."""

NORMAL = {
    "heart": ("cardiomegaly",),
    "heart and mediastinum": ("cardiomegaly", "mediastinal widening"),
    "mediastinum": ("mediastinal widening",),
    "lungs": ("consolidation", "opacity"),
    "vascularity": ("vascular congestion",),
    "hila": ("hilar enlargement",),
    "bones": ("bone abnormality",),
    "angles": ("pleural effusion",),
    "pleura": ("pleural effusion",),
    "markings": ("interstitial disease",),
}
"""Structure in a normal state -> findings that are absent."""

GENERAL = {"bones": "bone abnormality"}
"""Structure -> what "acute abnormality" means when said of it."""

NORMAL_STATES = {"normal": set(NORMAL), "clear": {"lungs", "angles", "pleura", "heart and mediastinum"}}
NORMAL_STATES |= {"intact": {"bones"}, "sharp": {"angles"}}
ABNORMAL = {
    ("heart", "enlarged"): "cardiomegaly",
    ("heart and mediastinum", "enlarged"): "cardiomegaly",
    ("mediastinum", "enlarged"): "mediastinal widening",
    ("hila", "enlarged"): "hilar enlargement",
    ("vascularity", "enlarged"): "vascular congestion",
    ("vascularity", "congested"): "vascular congestion",
    ("vascularity", "increased"): "vascular congestion",
    ("markings", "enlarged"): "interstitial disease",
    ("markings", "increased"): "interstitial disease",
    ("volumes", "low"): "low lung volumes",
    ("diaphragm", "elevated"): "elevated diaphragm",
    ("diaphragm", "flattened"): "hyperinflation",
    ("angles", "blunted"): "costophrenic angle blunting",
    ("heart", "top normal"): "cardiomegaly",
    ("heart and mediastinum", "top normal"): "cardiomegaly",
}
"""Structure and state -> the finding that is present (with "top normal": uncertain)."""

SIDED = frozenset(("elevated diaphragm", "hilar enlargement", "costophrenic angle blunting"))
"""Findings of structures that come in pairs."""

PLACELESS = frozenset(
    wordings(
        "cardiomegaly | heart failure | acute disease | low lung volumes | hyperinflation | tortuous aorta | scoliosis"
        " | kyphosis | mediastinal widening | pneumoperitoneum | pneumomediastinum | osteopenia | obstructive disease"
        " | bone abnormality"
    )
)
"""Findings that have no side or lobe, or are their own place."""
