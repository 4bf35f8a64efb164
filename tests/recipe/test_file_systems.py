"""Systems that are files: named by --models, or lying in exp as NAME/NAME.onnx; students of them, and what cannot be."""

import pytest

from tests.recipe.test_recipe_checks import told
from tests.recipe.test_recipe_plans import of


@pytest.fixture
def files(folder):
    """The recipe's folder with two such files, one with an underscore in its name."""
    for name in ("box/my.svq", "exp/wespeaker_resnet/wespeaker_resnet.onnx", "exp/net/net.onnx"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


BOX = {"models": "box=box/my.svq"}
FILE = "box is a file that runs (box/my.svq), no model folder"


def test_a_file_is_a_system_by_name_or_by_where_it_lies(files, resolved):
    made = resolved("net box wespeaker_resnet", **BOX)
    assert of(made, "kind", "net", "box", "wespeaker_resnet") == ["teacher", "file", "file"]
    assert of(made, "model", "box", "wespeaker_resnet") == of(made, "file", "box", "wespeaker_resnet") == of(
        made, "model_file", "box", "wespeaker_resnet") == ["box/my.svq", "exp/wespeaker_resnet/wespeaker_resnet.onnx"]
    assert of(made, "file", "net") == [""] and of(made, "model", "net") == ["exp/net"]  # an export of conf/net.yaml's network
    assert made.lists["packed"] == ["net", "box", "wespeaker_resnet"]  # they get a summary
    for other in ("teachers", "imported", "students", "file_teachers", "quantized_parents", "finetuned", "exported"):
        assert made.lists[other] == (["net"] if other == "teachers" else [])


def test_an_export_in_the_folder_of_a_model_is_no_system(files, resolved):
    (files / "exp" / "speechbrain_ecapa" / "speechbrain_ecapa.onnx").touch()
    made = resolved("speechbrain_ecapa speechbrain_ecapa_grid student-speechbrain_ecapa-two")
    assert of(made, "kind", "speechbrain_ecapa") == ["imported"] and of(made, "file", "speechbrain_ecapa") == [""]
    assert of(made, "levels", "student-speechbrain_ecapa-two") == ["utterance sp_aggr"]
    assert made.lists["level_teachers"] == ["speechbrain_ecapa"] and made.lists["file_teachers"] == []


def test_students_learn_the_embeddings_of_a_file(files, resolved):
    students = "student-box-utterance", "student-wespeaker_resnet-usual-s2", "student-box-utterance_grid"
    made = resolved("student-net-two net " + " ".join(students), **BOX)  # the files themselves need not be listed
    assert of(made, "given", *students, "net") == ["box", "wespeaker_resnet", "", ""]
    assert of(made, "teacher", *students[:2]) == ["", ""] and of(made, "levels", *students[:2]) == ["", ""]
    assert made.lists["file_teachers"] == ["box", "wespeaker_resnet"] and made.lists["level_teachers"] == ["net"]
    assert of(made, "model", "box", "wespeaker_resnet") == ["box/my.svq", "exp/wespeaker_resnet/wespeaker_resnet.onnx"]
    assert of(made, "net", students[2]) == ["student-box-utterance"]  # a student is quantized as any network


@pytest.mark.parametrize("systems, line", [
    ("box box_grid", f"box_grid: {FILE}; to quantize and finetune that network, import it or its checkpoint to a model folder "
     "(python3 -m svq.bin.import_checkpoint)"),
    ("box box_grid-ptq", f"box_grid-ptq: {FILE}; to quantize and finetune that network, import it or its checkpoint to a model "
     "folder (python3 -m svq.bin.import_checkpoint)"),
    ("box box-int8", f"box-int8: {FILE}; its arithmetic is what it is"),
    ("box box-2bit", "box-2bit: no member of 2 bits: box has no members; those of a row of method nested have"),
    ("box student-box-two", f"student-box-two: it learns levels utterance sp_aggr, and {FILE}, so it has the level utterance "
     "alone; take a row that learns that"),
    ("box student-box-lde", f"student-box-lde: it learns levels lde_aggr, and {FILE}, so it has the level utterance alone; take "
     "a row that learns that"),
    ("box student-box-computed", f"student-box-computed: conf/students.yaml:computed has its teacher compute each crop, and "
     f"{FILE}; let it learn embeddings of utterances: distill: {{targets: {{levels: [utterance]}}}}")])
def test_what_a_file_cannot_do_is_one_line(files, resolved, systems, line):
    assert told(resolved, systems, **BOX) == [line]


@pytest.mark.parametrize("models, words", [
    ("box", "--models box: write it as NAME=FILE; a name is letters, digits and . _ + -"),
    ("b/x=box/my.svq", "--models b/x=box/my.svq: write it as NAME=FILE; a name is letters, digits and . _ + -"),
    ("box=exp/net", "--models box=exp/net: the file of a model ends in .onnx, .xml, .svq; a model folder is a system as exp/box"),
    ("box=gone.onnx", "--models box=gone.onnx: gone.onnx: no such file"),
    ("box=box/my.svq box=exp/net/net.onnx", "--models: box is given twice; take one out"),
    ("net=box/my.svq", "--models: net is box/my.svq, and conf/net.yaml makes it another network; give the file another name"),
    ("speechbrain_ecapa=box/my.svq", "--models: speechbrain_ecapa is box/my.svq, and exp/speechbrain_ecapa/config.yaml makes it "
     "another network; give the file another name")])
def test_mistakes_in_models(files, resolved, models, words):
    assert told(resolved, "net speechbrain_ecapa", models=models) == [words]


@pytest.mark.parametrize("option", ["search", "analysis"])
def test_options_that_take_a_model_folder_say_so(files, resolved, option):
    assert told(resolved, "net box", **{option: "box", "search_row": "grid"}, **BOX) == [
        f"--{option}: box is a file that runs (box/my.svq); this takes a model folder"]


def test_a_file_whose_name_ends_in_a_row(files, resolved):
    (files / "exp" / "my_grid").mkdir()
    (files / "exp" / "my_grid" / "my_grid.onnx").touch()
    (line,) = told(resolved, "my_grid")
    assert line.endswith("if exp/my_grid/my_grid.onnx is a network that was made elsewhere, give it a name that does not end in "
                         "_grid, a row")
