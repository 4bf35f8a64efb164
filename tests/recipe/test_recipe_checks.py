"""What a recipe refuses before it runs: one line for each mistake."""

import os
import subprocess
import sys

import pytest

from svq.errors import UserError
from tests.recipe.conftest import FILES

NO_NETWORK = "there is no such network: neither conf/{0}.yaml nor exp/{0}/config.yaml"


def told(resolved, systems="net", **options) -> list[str]:
    with pytest.raises(UserError) as error:
        resolved(systems, **options)
    return str(error.value).splitlines()


@pytest.mark.parametrize("systems, line", [
    ("net gone", "gone: " + NO_NETWORK.format("gone") + "."),
    ("net othr", "othr: " + NO_NETWORK.format("othr") + "; did you mean other?"),
    ("net net_grud", "net_grud: " + NO_NETWORK.format("net_grud") + "; and conf/finetune.yaml has no row 'grud'; did you mean "
     "grid? Its tables: conf/quant.yaml"),
    ("net net_grud-ptq", "net_grud-ptq: net_grud has no row to be quantized by; -ptq goes with NETWORK_ROW-ptq; and "
     "conf/finetune.yaml has no row 'grud'; did you mean grid? Its tables: conf/quant.yaml"),
    ("my_grid", "my_grid is made from my, which is neither among --systems nor made already (exp/my/model.safetensors), and no "
     "network: there is neither conf/my.yaml nor exp/my/config.yaml"),
    ("net_grid", "net_grid is made from net, which is neither among --systems nor made already (exp/net/model.safetensors)"),
    ("net net_float net_float_grid", "net_float_grid: net_float is net finetuned by row float; rows are for networks as they "
     "were trained, such as net_grid"),
    ("net net-ptq", "net-ptq: net has no row to be quantized by; -ptq goes with NETWORK_ROW-ptq"),
    ("net net_float-ptq", "net_float-ptq: row float quantizes nothing; -ptq is for rows that do"),
    ("net net-int8-ptq", "net-int8-ptq: net-int8 has no row to be quantized by; -ptq goes with NETWORK_ROW-ptq; the ends of a "
     "name come in the order -sN, -ptq, -Nbit, -int8"),
    ("net net_grid net_grid-2bit", "net_grid-2bit: no member of 2 bits: net_grid has no members; those of a row of method "
     "nested have"),
    ("net net-2bit", "net-2bit: no member of 2 bits: net has no members; those of a row of method nested have"),
    ("net net_nested net_nested-3bit", "net_nested-3bit: no member of 3 bits: the members of net_nested have 2 and 4 bits"),
    ("net net_nested-2bit", "net_nested-2bit is made from net_nested, which is neither among --systems nor made already "
     "(exp/net_nested/model.safetensors)"),
    ("net net_grid-int8", "net_grid-int8 is made from net_grid, which is neither among --systems nor made already "
     "(exp/net_grid/model.safetensors)"),
    ("net net_both", "conf/finetune.yaml:both: `allocate` and `select` both say which layers get which bits; keep one"),
    ("net net_wrong", "conf/finetune.yaml:wrong: 'quant' must be a mapping of keys to values, not 3"),
    ("finetune", "finetune: conf/finetune.yaml holds no network's settings; a network is called something else"),
    ("student", "student learns from teacher, which is neither among --systems nor made already "
     "(exp/teacher/model.safetensors)"),
    ("student-gone-two", "student-gone-two learns from gone, which is neither among --systems nor made already "
     "(exp/gone/model.safetensors), and no network: there is neither conf/gone.yaml nor exp/gone/config.yaml"),
    ("teacher student student-student-two", "student-student-two learns from student, which is made in the same stage or later; "
     "a teacher is a network that is trained from scratch or was made elsewhere"),
    ("net student-net-tow", "student-net-tow: there is no conf/student-net-tow.yaml, and conf/students.yaml has no row 'tow'; "
     "did you mean two? Its tables: conf/distill.yaml"),
    ("net student-net-labels", "student-net-labels: row labels learns from no teacher; write student-labels"),
    ("student-utterance", "student-utterance: row utterance learns from a teacher; name it, student-TEACHER-utterance"),
    ("net student-net-odd", "conf/students.yaml:odd: 'distill.targets.levels' must be a list of levels' names"),
    ("net a/b", "--systems: 'a/b' is no name: letters, digits and . _ + -, a letter or a digit first"),
    ("net net", "--systems: net is given twice; take one out"),
    ("", "--systems names none; give at least one")])
def test_mistakes_in_systems(resolved, systems, line):
    assert told(resolved, systems) == [line]


@pytest.mark.parametrize("options, line", [
    ({"nj": "0"}, "--nj 0: must be a whole number, at least 1"),
    ({"top_n": "-5"}, "--top-n -5: must be a whole number, at least 2"),
    ({"lda_dim": "x"}, "--lda-dim x: must be a whole number, at least 0"),
    ({"cohort_per_spk": "-1"}, "--cohort-per-spk -1: must be a whole number, at least 0"),
    ({"norms": "none snrom"}, "--norms: there is no score normalization 'snrom'; did you mean snorm? Known: none, snorm, asnorm"),
    ({"norms": ""}, "--norms names none; give at least one"),
    ({"backends": "lda2"}, "--backends: there is no back end 'lda2'; did you mean plda? Known: cosine, plda"),
    ({"backends": "plda plda"}, "--backends: plda is given twice; take one out"),
    ({"int8_runtime": "tflite"}, "--int8-runtime is openvino or onnxruntime, not 'tflite'"),
    ({"trials": ""}, "--trials names none; give at least one"),
    ({"trials": "../x/trials"}, "--trials ../x/trials: write it as SET/trials or SET/trials_NAME, SET a folder within data"),
    ({"trials": "/x/trials"}, "--trials /x/trials: write it as SET/trials or SET/trials_NAME, SET a folder within data"),
    ({"trials": "dev/pairs"}, "--trials dev/pairs: write it as SET/trials or SET/trials_NAME, SET a folder within data"),
    ({"trials": "trials"}, "--trials trials: write it as SET/trials or SET/trials_NAME, SET a folder within data"),
    ({"trials": "far/test/trials test/trials"},
     "--trials: far/test/trials and test/trials would both be called test in the results; rename one"),
    ({"trials": "test/trials_all test_all/trials"},
     "--trials: test/trials_all and test_all/trials would both be called test_all in the results; rename one"),
    ({"exp": "a\tb"}, "--exp: a tab or line break in 'a\\tb'"),
    ({"search": "net_grid", "search_row": "grid"}, "--search: net_grid is no float system; name the one that it comes from, net"),
    ({"search": "gone", "search_row": "grid"}, "--search: gone: " + NO_NETWORK.format("gone") + "."),
    ({"search": "other", "search_row": "grid"},
     "--search: other is neither among --systems nor made already (exp/other/model.safetensors)"),
    ({"search": "net", "search_row": "grud"},
     "--search-row: conf/finetune.yaml has no row 'grud'; did you mean grid? Its tables: conf/quant.yaml"),
    ({"analysis": "net_grid"}, "--analysis: net_grid is no float system; name the one that it comes from, net"),
    ({"analysis": "gone"}, "--analysis: gone: " + NO_NETWORK.format("gone") + "."),
    ({"analysis": "net", "analysis_rows": "grid grud"},
     "--analysis-rows: conf/finetune.yaml has no row 'grud'; did you mean grid? Its tables: conf/quant.yaml"),
    ({"ladders": "net"}, "--ladders net: write it as SYSTEM:SYSTEM, two rungs or more, the cheapest first"),
    ({"ladders": "net::other"}, "--ladders net::other: write it as SYSTEM:SYSTEM, two rungs or more, the cheapest first"),
    ({"ladders": "net:net"}, "--ladders net:net: net is on it twice"),
    ({"ladders": "net_grid:net", "trials": "dev/trials", "systems": "net net_grid"},
     "--ladders needs a second list in --trials: the deltas are chosen on the first; --ladders= leaves cascades out"),
    ({"ladders": "a:net", "cascade_limits": ""},
     "--cascade-limits names none, and --ladders asks for cascades; give at least one"),
    ({"cascade_limits": "cost=x"}, "--cascade-limits cost=x: write it as NAME=NUMBER, such as eer_loss=0.05"),
    ({"cascade_limits": "cost=-1"}, "--cascade-limits cost=-1: write it as NAME=NUMBER, such as eer_loss=0.05"),
    ({"cascade_limits": "eer_los=1"}, "--cascade-limits eer_los=1: there is no limit 'eer_los'; did you mean eer_loss? Known: "
     "flip_rate, harmful_rate, eer_loss, cost, escalation"),
    ({"cascade_limits": "cost=1 cost=2"}, "--cascade-limits: cost is given twice; keep one")])
def test_mistakes_in_options(resolved, options, line):
    assert told(resolved, **options) == [line]


@pytest.mark.parametrize("files, systems, words", [
    ({"conf/big.yaml": "", "conf/big_grid.yaml": ""}, "big_grid",
     ["big_grid: conf/big_grid.yaml makes big_grid a network, and grid is a row", "big quantized; rename the file, or the row"]),
    ({"exp/my_grid/config.yaml": "arch: XVector\n"}, "my_grid",
     ["if exp/my_grid is a network that was made elsewhere, give the folder a name that does not end in _grid, a row"]),
    ({"exp/net_gone/config.yaml": "quant: {bits: 2}\n"}, "net_gone", ["net_gone: exp has such a model, quantized; and ",
                                                                     "has no row 'gone'"]),
    ({"conf/quant.yaml": "a: {x: 1,\n}\n"}, "net_a", ["conf/quant.yaml:2: begin a row with `name:`"]),
    ({"conf/quant.yaml": "grid: {base: grit}\n"}, "net net_grid", ["conf/quant.yaml:1: row grid builds on 'grit'"]),
    ({"conf/net.yaml": "epochs: [\n"}, "net", ["conf/net.yaml:2: not valid YAML"]),
    ({"conf/net.yaml": "base: none.yaml\n"}, "net", ["conf/none.yaml: no such config file (the base that conf/net.yaml names)"]),
    ({"conf/finetune.yaml": None}, "net net_grid", ["conf/finetune.yaml, which names the tables of rows, is missing"]),
    ({"conf/student.yaml": None}, "teacher student", ["student: conf/student.yaml, which says how it is trained, is missing"]),
    ({"conf/students.yaml": None}, "net student-net-two", ["neither conf/student-net-two.yaml nor conf/students.yaml says"]),
    ({"conf/aggregation.yaml": None}, "net student-net-lde", ["its levels need the dictionary of pooling lde, and "
                                                             "conf/aggregation.yaml, which says how that is trained, is missing"]),
    ({"conf/net-two.yaml": "", "conf/net.yaml": ""}, "net net-two student-net-two-mn", ["student-net-two-mn is a student of "
                                                                                      "net by row two-mn or of net-two by row mn"]),
])
def test_mistakes_in_files(folder, resolved, files, systems, words):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).unlink() if text is None else (folder / name).write_text(text)
    (line,) = told(resolved, systems)
    for word in words:
        assert word in line


def test_search_needs_its_settings(folder, resolved):
    (folder / "conf" / "search.yaml").unlink()
    assert told(resolved, search="net", search_row="grid") == [
        "--search: conf/search.yaml, which says what is searched, is missing"]


def test_all_mistakes_at_once(resolved):
    assert len(told(resolved, "net gone net_grud", nj="0", norms="snrom", trials="x")) == 5


def test_what_is_made_already_need_not_be_listed(folder, resolved):
    for name in ("net", "net_nested", "gone"):
        (folder / "exp" / name).mkdir()
        (folder / "exp" / name / "model.safetensors").touch()
    made = resolved("net_grid gone_grid net_nested-2bit net_nested-int8", search="net", search_row="grid")
    assert made.lists["finetuned"] == ["net_grid", "gone_grid"] and made.lists["quantized_parents"] == []
    assert made.fields["net", "gone_grid"] == "gone" and made.fields["traded", "net"] == (
        "net_grid net_nested-2bit net_nested-int8")


@pytest.mark.parametrize("options", [{"stage": "6"}, {"from_elsewhere": "true"}])
def test_what_nothing_is_made_of_may_be_missing(resolved, options):
    assert resolved("net_grid", **options).lists["finetuned"] == ["net_grid"]


def test_systems_from_elsewhere_need_no_settings(resolved):
    made = resolved("gone gone-int8 student-gone-own", from_elsewhere="true")
    assert made.lists["imported"] == ["gone"] and made.lists["students"] == ["student-gone-own"]


@pytest.mark.parametrize("options", [{"search": "gone", "stop_stage": "12"}, {"analysis": "gone", "stop_stage": "13"},
                                     {"analysis": "gone", "stage": "15"}, {"ladders": "net_grid:net", "trials": "dev/trials",
                                                                          "stop_stage": "14"}])
def test_what_no_stage_asks_for_is_not_checked(resolved, options):
    resolved("net net_grid", **options)


def test_settings_that_something_is_trained_by_are_held_to_their_schema(folder, resolved):
    for name in ("student", "net"):
        (folder / "conf" / f"{name}.yaml").write_text("epoch: 1\n")
    (folder / "conf" / "aggregation.yaml").write_text("level: lde_aggr\nchannel: 3\n")
    assert told(resolved, "net net_plain") == ["conf/net.yaml: unknown key 'epoch'; did you mean 'epochs'?"]
    resolved("net", stage="6")  # nothing is trained


def test_a_margin_that_begins_after_the_last_epoch_is_said(folder, resolved):
    late = "epochs: 2\nschedule: {margin: 0.2, margin_start_epoch: 2, margin_full_epoch: 8}\n"
    (folder / "conf" / "net.yaml").write_text(late)
    (folder / "conf" / "finetune.yaml").write_text("rows: quant.yaml\n" + late.replace("start_epoch: 2", "start_epoch: 5"))
    notes = resolved("net net_grid net_speech net_grid-ptq other").notes
    assert [stage for stage, _ in notes] == [3, 5]  # row `speech` learns without labels, and so without a margin
    assert notes[0][1].startswith("conf/net.yaml: the margin begins after epoch 2 of 2, so that it stays 0 throughout; lower ")
    assert notes[1][1].startswith("conf/finetune.yaml:grid: the margin begins after epoch 5 of 2")
    assert resolved("net_grid-ptq", from_elsewhere="true").notes == []
    (folder / "conf" / "net.yaml").write_text(late.replace("epochs: 2\n", "epochs: 3\n"))
    assert resolved("net").notes == []


def worker(folder, *words):
    from tests.recipes.conftest import ROOT

    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "svq.bin.systems", *words], cwd=folder, text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    told = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    return done, told


def test_worker_prints_lines_of_fields_and_imports_little(folder):
    done, told = worker(folder, "systems=net net_budget gone_x-ptq", "trials=dev/trials", "unknown=a=b", "systems=net net_budget")
    assert done.returncode == 0 and not told
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert ["list", "teachers", "net"] in lines and ["list", "students", ""] in lines
    assert ["of", "config", "net_budget", "conf/finetune.yaml:budget"] in lines and ["of", "seed", "net", ""] in lines
    assert {(line[0], len(line)) for line in lines} == {("list", 3), ("of", 4)}
    for module in ("torch", "scipy", "matplotlib", "argparse"):
        assert f" {module}\n" not in done.stderr
    done, told = worker(folder, "systems=gone nett", "trials=dev/trials", "nj=0")
    assert done.returncode == 2 and done.stdout == "" and len(told) == 3 and all(line.startswith("run.sh: ") for line in told)
    done, told = worker(folder, "systems")
    assert done.returncode == 2 and told == ["python3 -m svq.bin.systems: error: 'systems': write options as NAME=VALUE"]


def test_folder_has_what_the_tests_name():
    assert {"conf/finetune.yaml", "conf/students.yaml"} < set(FILES)
