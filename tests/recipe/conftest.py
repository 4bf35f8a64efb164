"""A folder of settings with rows of every shape, and recipes resolved with it; nothing is run."""

from __future__ import annotations

import pytest

from svq.recipe.resolve import resolve_recipe

FILES = {
    "conf/finetune.yaml": "rows: quant.yaml\nepochs: 2\nschedule: {margin: 0}\ndata: {input: feats}\n",
    "conf/quant.yaml": """float:
grid: {quant: {method: integer, bits: 8}, ptq: {bias_correction: true, utterances: 8}}
budget: {base: grid, select: {max_eer_loss: 0.1, search: greedy}}
exact: {base: budget, select: {search: exact}, ptq: {utterances: 4}}
plain: {base: budget, select: null, ptq: null}
paper: {base: grid, select: {preset: ecapa-selective}}
unpaper: {base: paper, select: {preset: null, max_eer_loss: 1}}
mixed:
  base: grid
  allocate:
    average_bits: 2
remixed: {base: mixed}
speech: {quant: {method: kmqat, bits: 2}, ptq: {calibrate: true}, distill: {label_weight: 0}}
shared: {base: speech, allocate: {average_bits: 2}}
long:
  base: grid
  select:
    max_eer_loss: 0.1
nested: {quant: {method: nested, bits: 4}}
nested3: {quant: {method: nested, bits: 8, precisions: [2, 4, 8]}}
both: {base: mixed, select: {max_eer_loss: 1}}
wrong: {quant: 3}
""",
    "conf/students.yaml": "rows: [distill.yaml]\ndistill: {label_weight: 0.0}\n",
    "conf/distill.yaml": """labels: {distill: null}
utterance: {distill: {targets: {levels: [utterance]}}}
two: {distill: {targets: {levels: [utterance, sp_aggr]}}}
two-mn: {base: two}
mn: {base: two}
usual: {distill: {targets: {mean_normalize: true}}}
lde: {distill: {targets: {levels: [lde_aggr]}}}
odd: {distill: {targets: {levels: utterance}}}
computed:
""",
    "conf/aggregation.yaml": "level: lde_aggr\n",
    "conf/search.yaml": "trials: 1\n",
    "conf/student.yaml": "distill: {label_weight: 1.0}\n",
    "conf/net.yaml": "epochs: 1\nschedule: {margin: 0}\n", "conf/other.yaml": "epochs: 1\nschedule: {margin: 0}\n", "conf/my_net.yaml": "epochs: 1\nschedule: {margin: 0}\n",
    "conf/teacher.yaml": "epochs: 1\nschedule: {margin: 0}\n",
    "exp/speechbrain_ecapa/config.yaml": "arch: ECAPA512\n", "exp/speechbrain_ecapa/model.safetensors": ""}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The recipe's folder, which is the current one."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def resolved(folder):
    """resolved(systems, **options): the recipe with these options."""
    def run(systems, **options):
        return resolve_recipe({"systems": systems, "trials": "dev/trials test/trials", "cascade_limits": "cost=0.1", **options})

    return run
