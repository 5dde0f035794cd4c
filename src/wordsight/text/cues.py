"""Words of reports that deny, doubt or join: they open and close scopes in which findings are read."""

from __future__ import annotations

from itertools import product

from wordsight.text.chest_terms import wordings

CUES = {
    "negation": "no | not | without | free of | clear of | negative for | negative | absence of | nor | never | neither"
    " | rather than | resolution of | interval resolution of | removal of | interval removal of | devoid of | lack of"
    " | w o | cleared of",
    "hypothetical": "evaluate for | evaluation for | evaluation of | evaluate | assess for | rule out | r o"
    " | to exclude | history of | screening for | in a patient with | in patient with | further evaluation"
    " | patient with | risk of | risk for",
    "doubt": "may | maybe | might | could | suggest | suggesting | suggestive | suggestion | suspicious for"
    " | suspicion of"
    " | suspicion for | concerning for | concern for | cannot exclude | can not exclude | differential | consider"
    " | worrisome for | likely represent | likely representing | likely reflect | likely reflecting | likely due to"
    " | likely secondary to | probably represent | possibly represent | not exclude | difficult to exclude | suspect"
    " | possibility of | cannot rule out | question of | would be | can be seen | questionable | question | questioned"
    " | if | xxxx represent | xxxx representing | xxxx reflect | xxxx reflecting | xxxx combination | xxxx due to"
    " | xxxx secondary to",
    "hedge": "possible | possibly | probable | probably | likely | presumed | presumably | suspected"
    " | equivocal | potential | potentially | perhaps | less likely",
    "denied": "resolved | not seen | not identified | not visualized | not present | not evident | not appreciated"
    " | not demonstrated | no longer | removed | absent | cleared | ruled out | not detected | been removed"
    " | not visible | unlikely | not apparent",
    "doubted": "not excluded | cannot be excluded | can not be excluded | not entirely excluded | not be excluded"
    " | cannot be ruled out | is possible | is suspected | is questioned | is likely | not well seen"
    " | not definitely seen | not well visualized | not ruled out | be considered | not completely excluded"
    " | is not excluded | is considered | is favored"
    " | would be a consideration",
    "end": "however | although | though | except | aside from | apart from | other than | which | that"
    " | since | nevertheless | yet",
    "otherwise": "otherwise | but",
    "with": "with",
    "or": "or | versus | vs | and or",
    "and": "and",
    "ignored": "consistent with | compatible with | in keeping with | associated with | left to right shunt",
    "verb": "is | appear | remain | has | have been",
    "assertion": "mild | minimal | small | moderate | persistent | redemonstrated | there is | old | tiny | bilateral"
    " | few | scattered | multiple | slight | residual | trace | improved",
}
"""Kind of cue -> wordings. negation, doubt and hedge look ahead, denied and doubted back; hypothetical: asked, not
seen.

A de-identified word before "represent" hides a hedge more often than not, so it is read as one.
"""

_DEGREES = "| significant | significantly | interval | definite | appreciable | substantial | significant interval"
_CHANGES = (
    "change | changed | increase | increased | decrease | decreased | worsening | improvement | progression"
    " | difference | different | growth"
)
PSEUDO_NEGATIONS = [" ".join(p) for p in product(("no", "not", "without"), wordings(_DEGREES), wordings(_CHANGES))]
"""Negated words that deny a change, not a finding: "no significant change in the effusion"."""
