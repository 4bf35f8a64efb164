"""What the stages of a recipe work on, from settings of all shapes."""

import re

import pytest

from svq.errors import UserError
from svq.recipe.resolve import resolve_recipe
from tests.recipes.conftest import ROOT


def of(made, field, *keys):
    return [made.fields[field, key] for key in keys]


def test_kinds_and_where_systems_come_from(resolved):
    systems = ("net other-s2 speechbrain_ecapa student-net-two net_grid net_grid-s2-ptq net_float net_nested net_nested-2bit "
               "net-int8 net_nested-2bit-int8 speechbrain_ecapa_grid student-net-two_grid other-s2_grid-s3").split()
    made = resolved(" ".join(systems))
    assert of(made, "kind", *systems) == (
        "teacher teacher imported student finetuned rounded finetuned finetuned member exported exported "
        "finetuned finetuned finetuned").split()
    assert of(made, "net", *systems) == (
        "net other-s2 speechbrain_ecapa student-net-two net net net net net net net speechbrain_ecapa student-net-two "
        "other-s2").split()
    assert of(made, "seed", *systems) == ["", "2", "", "", "", "2", *[""] * 7, "3"]
    assert of(made, "start", "net", "net_grid", "other-s2_grid-s3", "net_grid-s2-ptq") == ["", "net", "other-s2", ""]
    assert of(made, "config", "net", "other-s2", "speechbrain_ecapa", "student-net-two", "net_float", "net-int8") == [
        "conf/net.yaml", "conf/other.yaml", "", "conf/students.yaml:two", "conf/finetune.yaml:float", ""]
    assert of(made, "whole", "net_nested-2bit", "net") == ["net_nested", ""]
    assert of(made, "member_bits", "net_nested-2bit", "net") == ["2", ""]
    assert of(made, "exported", "net_nested-2bit-int8", "net-int8", "net") == ["net_nested-2bit", "net", ""]
    assert of(made, "input", "net", "net_grid", "net-int8") == ["wav", "feats", ""]
    assert made.lists["packed"] == [name for name in systems if not name.endswith("-int8")]
    assert made.lists["quantized_parents"] == ["net", "other-s2", "speechbrain_ecapa", "student-net-two"]
    assert made.lists["teachers"] == ["net", "other-s2"] and made.lists["imported"] == ["speechbrain_ecapa"]


def test_settings_of_the_very_system_go_first(folder, resolved):
    for name in ("net-s2", "student-net-two", "student-net-own"):
        (folder / "conf" / f"{name}.yaml").write_text("distill: {label_weight: 1}\n")
    made = resolved("net net-s2 net-s3 student-net-two student-net-two-s4 student-net-own")
    assert of(made, "config", "net-s2", "net-s3", "student-net-two", "student-net-two-s4", "student-net-own") == [
        "conf/net-s2.yaml", "conf/net.yaml", "conf/student-net-two.yaml", "conf/student-net-two.yaml",
        "conf/student-net-own.yaml"]
    assert of(made, "teacher", "student-net-own", "student-net-two") == ["net", "net"]
    assert of(made, "levels", "student-net-two") == [""]


@pytest.mark.parametrize("row, selects, preset, allocates, corrects", [
    ("grid", 0, 0, 0, 1), ("budget", 1, 0, 0, 1), ("exact", 1, 0, 0, 1), ("plain", 0, 0, 0, 0), ("paper", 1, 1, 0, 1),
    ("unpaper", 1, 0, 0, 1), ("mixed", 0, 0, 1, 1), ("remixed", 0, 0, 1, 1), ("long", 1, 0, 0, 1)])
def test_a_part_of_the_settings_may_stand_in_a_base_and_over_several_lines(resolved, row, selects, preset, allocates, corrects):
    system = f"net_{row}"
    made = resolved(f"net {system}")
    assert made.lists["selected"] == [system] * selects and made.lists["allocated"] == [system] * allocates
    assert made.lists["block_tables"] == [f"net:{row}"] * (selects and not preset)
    assert made.lists["sensitive"] == ["net"] * allocates
    assert of(made, "speech", system) == ["true" if corrects else "false"]
    assert of(made, "bits", system) == [f"exp/{system}/bits.tsv" if selects or allocates else ""]
    assert of(made, "blocks", system) == [f"exp/net/blocks_{row}" if selects and not preset else ""]


def test_systems_of_one_row_share_a_table_of_blocks(resolved):
    made = resolved("net net_budget net_budget-ptq net_budget-s2 net_paper-ptq")
    assert made.lists["block_tables"] == ["net:budget"]
    assert made.lists["selected"] == ["net_budget", "net_budget-ptq", "net_budget-s2", "net_paper-ptq"]
    assert of(made, "bits", *made.lists["selected"]) == [f"exp/{name}/bits.tsv" for name in made.lists["selected"]]
    assert {field: made.fields[field, "net:budget"] for field in ("net", "row", "config", "blocks", "speech")} == {
        "net": "net", "row": "budget", "config": "conf/finetune.yaml:budget", "blocks": "exp/net/blocks_budget",
        "speech": "true"}


def test_calibrated_systems_are_finetuned_from_where_they_are(resolved):
    """Once for all seeds, before the trainings, whether or not it is a system of its own; with the bits of theirs."""
    made = resolved("net net_speech net_speech-s2 net_shared-s3 net_shared net_grid-ptq net_plain")
    assert made.lists["rounded"] == ["net_grid-ptq", "net_shared-ptq", "net_speech-ptq"]
    assert made.lists["finetuned"] == ["net_speech", "net_speech-s2", "net_shared-s3", "net_shared", "net_plain"]
    assert of(made, "start", *made.lists["finetuned"]) == [
        "net_speech-ptq", "net_speech-ptq", "net_shared-ptq", "net_shared-ptq", "net"]
    assert of(made, "teacher", "net_speech", "net_plain", "net_speech-ptq") == ["net", "", ""]
    assert of(made, "bits", "net_shared-ptq", "net_shared-s3", "net_shared", "net_speech") == [
        "exp/net_shared-s3/bits.tsv", "exp/net_shared-s3/bits.tsv", "exp/net_shared/bits.tsv", ""]
    assert of(made, "config", "net_shared-ptq") == ["conf/finetune.yaml:shared"]
    assert of(made, "model_file", "net_shared-ptq") == ["exp/net_shared-ptq/model.safetensors"]
    assert made.lists["allocated"] == ["net_shared-s3", "net_shared"]
    listed = resolved("net net_shared net_shared-ptq")
    assert of(listed, "bits", "net_shared-ptq") == ["exp/net_shared-ptq/bits.tsv"] and listed.lists["rounded"] == ["net_shared-ptq"]


def test_bits_that_were_made_by_hand(folder, resolved):
    (folder / "conf" / "mixed.bits.tsv").touch()
    (folder / "conf" / "other_mixed.bits.tsv").touch()
    made = resolved("net other net_mixed net_mixed-s2-ptq other_mixed-s3 net_remixed")
    assert of(made, "bits", "net_mixed", "net_mixed-s2-ptq", "other_mixed-s3", "net_remixed") == [
        "conf/mixed.bits.tsv", "conf/mixed.bits.tsv", "conf/other_mixed.bits.tsv", "exp/net_remixed/bits.tsv"]
    assert made.lists["allocated"] == ["net_remixed"] and made.lists["sensitive"] == ["net"]


def test_levels_of_teachers_are_cached_once_for_all_students(resolved):
    made = resolved("net other student student-net-two student-net-utterance-s2 student-other-lde student-labels "
                    "student-net-usual student-other-computed teacher")
    assert made.lists["level_teachers"] == ["net", "other"] and made.lists["dictionaries"] == ["other"]
    assert of(made, "levels", "net", "other", "student-net-two", "student-net-usual", "student-labels", "student") == [
        "sp_aggr utterance", "lde_aggr", "utterance sp_aggr", "utterance", "", ""]
    assert of(made, "teacher", "student", "student-labels", "student-other-lde", "student-other-computed") == [
        "teacher", "", "other", "other"]


@pytest.mark.parametrize("runtime, suffix", [("openvino", "xml"), ("onnxruntime", "onnx")])
def test_an_exported_system_is_a_file(resolved, runtime, suffix):
    made = resolved("net net-int8", int8_runtime=runtime)
    assert of(made, "model", "net", "net-int8") == ["exp/net", f"exp/net-int8/model.{suffix}"]
    assert of(made, "model_file", "net", "net-int8") == ["exp/net/model.safetensors", f"exp/net-int8/model.{suffix}"]
    assert made.fields["value", "int8_suffix"] == suffix


def test_analysis_compares_with_the_float_system_of_the_same_finetuning(resolved):
    made = resolved("net net_float net_grid net_grid-int8 net-int8 teacher student student_grid my_net my_net_grid",
                    analysis="net other student my_net", analysis_rows="grid")
    assert made.lists["analysed"] == ["net", "student", "my_net"]
    assert made.lists["layers_analysed"] == ["net", "student", "my_net"]
    assert of(made, "control", "net", "student", "other", "my_net") == ["net_float", "student", "other", "my_net"]
    assert of(made, "compared", "net", "student", "my_net") == ["net_grid net_grid-int8 net-int8", "student_grid", "my_net_grid"]
    assert made.notes == [(14, "leave out the analysis of other: other and systems made from it are not both in --systems")]


def test_cascades_of_systems_that_are_there(resolved):
    made = resolved("net net_nested net_nested-2bit net_grid", ladders="net_nested-2bit:net_nested:net net_grid:gone")
    assert made.lists["ladders"] == ["net_nested-2bit:net_nested:net"]
    assert of(made, "rungs", "net_nested-2bit:net_nested:net") == ["net_nested-2bit net_nested net"]
    assert made.notes == [(15, "leave out the cascade net_grid:gone: gone is not in --systems")]


@pytest.mark.parametrize("row, teacher", [("speech", "net"), ("grid", "")])
def test_a_search_and_the_systems_that_it_is_set_against(resolved, row, teacher):
    made = resolved("net net_grid net-int8 other other_grid", search="net", search_row=row)
    assert made.lists["searched"] == ["net"] and of(made, "traded", "net") == ["net_grid net-int8"]
    assert of(made, "search_teacher", "net") == [teacher] and of(made, "finetuning", "net") == ["conf/finetune.yaml"]


def test_a_network_may_have_its_own_finetuning(resolved, folder):
    """For all its seeds, searches and analyses; nobody else, and no network is called so."""
    (folder / "conf" / "net.finetune.yaml").write_text("base: finetune.yaml\ndata: {input: wav}\n")
    made = resolved("net net_grid net-s2 net-s2_grid-ptq other other_grid", search="net other", search_row="speech")
    own, shared = "conf/net.finetune.yaml", "conf/finetune.yaml"
    assert of(made, "config", "net_grid", "net-s2_grid-ptq", "other_grid") == [f"{own}:grid", f"{own}:grid", f"{shared}:grid"]
    assert of(made, "input", "net_grid", "other_grid") == ["wav", "feats"]
    assert of(made, "finetuning", "net", "net-s2", "other") == [own, own, shared]
    with pytest.raises(UserError, match="holds no network's settings"):
        resolved("net.finetune")
    with pytest.raises(UserError, match="did you mean net"):
        resolved("ne")
    (folder / "conf" / "net.finetune.yaml").write_text("rows: own.yaml\n")
    (folder / "conf" / "own.yaml").write_text("float:\n")
    with pytest.raises(UserError, match="conf/net.finetune.yaml has no row 'grid'"):
        resolved("net net_grid")


def test_trial_lists_and_data_sets(resolved):
    made = resolved("net", trials="dev/trials far/vox1/trials_O far/vox1/trials_E", cohort_per_spk="5")
    assert made.lists["list_names"] == ["dev", "vox1_O", "vox1_E"] and made.lists["sets"] == ["cohort", "dev", "far/vox1"]
    assert of(made, "set", "far/vox1/trials_O") == ["far/vox1"] and of(made, "list_name", "far/vox1/trials_O") == ["vox1_O"]
    assert made.fields["value", "cohort"] == "cohort" and made.fields["value", "report"] == "exp"
    assert resolved("net", report="out").fields["value", "report"] == "out"


@pytest.mark.parametrize("given, means_only, sets", [
    ({}, "true", ["dev"]), ({"cohort_speakers": "600"}, "true", ["dev"]), ({"cohort_means": "false"}, "false", ["dev", "train"]),
    ({"backends": "cosine plda"}, "false", ["dev", "train"]), ({"trials": "dev/trials train/trials"}, "false", ["dev", "train"])])
def test_embeddings_of_the_cohort_are_computed_only_where_something_takes_them(resolved, given, means_only, sets):
    made = resolved("net", **{"trials": "dev/trials", "cohort_means": "true", **given})
    assert (made.fields["value", "means_only"], made.lists["sets"]) == (means_only, sets)
    assert made.fields["value", "cohort"] == ("cohort" if "cohort_speakers" in given else "train")


def options_of(recipe):
    """The options at the top of a recipe's run.sh with their defaults."""
    found = {}
    for line in (ROOT / "egs" / recipe / "run.sh").read_text().splitlines():
        if ". utils/parse_options.sh" in line:
            return found
        match = re.match(r'([a-z][a-z0-9_]*)=(?:"([^"]*)"|(\S*))', line)
        if match:
            found[match[1]] = match[2] if match[2] is not None else match[3]


@pytest.mark.parametrize("recipe, conf, folder, finetuned, allocated, cohort", [
    ("mini", "conf", "mini", "teacher_kmqat4 teacher_best2 teacher_adaptive student_kmqat4", ["teacher_best2"], "feats"),
    ("mini", "conf/debug", "mini", "teacher_kmqat4 teacher_best2 teacher_adaptive student_kmqat4", ["teacher_best2"], "feats"),
    ("speechocean762", "conf", "speechocean762", "teacher_kmqat4 teacher_mixed2 teacher_adaptive student_kmqat4",
     ["teacher_mixed2"], "wav"),
    ("voxceleb", "conf", "voxceleb", "teacher_kmqat4 teacher_mixed2 teacher_adaptive student_kmqat4", ["teacher_mixed2"], "wav"),
    ("cnceleb", "conf", "voxceleb", "teacher_kmqat4 teacher_mixed2 teacher_adaptive student_kmqat4", ["teacher_mixed2"], "wav")])
def test_the_defaults_of_the_recipes(monkeypatch, recipe, conf, folder, finetuned, allocated, cohort):
    monkeypatch.chdir(ROOT / "egs" / folder)
    elsewhere = {"from_elsewhere": "true"} if recipe == "cnceleb" else {}
    options = options_of(recipe)
    made = resolve_recipe({**options, "conf": conf, "exp": "no such folder", **elsewhere})
    assert made.lists["teachers"] == ["teacher"] and made.lists["students"] == ["student"]
    assert made.lists["finetuned"] == ["teacher_float", *finetuned.split()] and made.lists["allocated"] == allocated
    assert made.lists["sensitive"] == ["teacher"] and made.lists["rounded"] == made.lists["selected"] == []
    assert made.lists["packed"] == options["systems"].split() and made.lists["quantized_parents"] == ["student", "teacher"]
    assert made.lists["analysed"] == options["analysis"].split() and not made.notes
    assert made.lists["ladders"] == options["ladders"].split() and made.lists["searched"] == []
    assert len(set(made.lists["list_names"])) == len(options["trials"].split())
    assert of(made, "config", "teacher", "student", "student_kmqat4") == [
        f"{conf}/teacher.yaml", f"{conf}/student.yaml", f"{conf}/finetune.yaml:kmqat4"]
    assert of(made, "input", "student_kmqat4") == [cohort]


def test_every_row_of_every_recipe_resolves(monkeypatch):
    from svq.recipe.settings import Conf

    for folder in ("mini", "speechocean762", "voxceleb"):
        monkeypatch.chdir(ROOT / "egs" / folder)
        conf = Conf("conf", "exp")
        rows, levels = conf.names.quant, conf.names.distill
        systems = ["teacher", *(f"teacher_{row}" for row in sorted(rows))]
        for row in sorted(levels):
            if conf.read(f"conf/students.yaml:{row}").part("distill") is None:
                systems.append(f"student-{row}")
            elif folder != "mini":  # it has no dictionary
                systems.append(f"student-teacher-{row}")
        made = resolve_recipe({"systems": " ".join(systems), "trials": "dev/trials test/trials"})
        assert set(made.lists["finetuned"]) == {f"teacher_{row}" for row in rows} and "float" in rows
        assert {"teacher:selected8"} == set(made.lists["block_tables"])
