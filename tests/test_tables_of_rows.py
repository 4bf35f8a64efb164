"""Tables of rows: what `FILE.yaml:ROW` gives, and one line for a table that is written otherwise than tools read it."""

import os

import pytest

from svq.config_files import config_files, read_tree, row_tables
from svq.errors import UserError
from svq.rows import row_names

FILES = {
    "conf/quant.yaml": "float:\ngrid: {quant: {bits: 8, range: mse}, ptq: {utterances: 64}}\n"
                       "# a comment that says base: nothing\n"
                       "budget: {base: grid, select: {loss: 0.1}}  # base: of no row\n\n"
                       "long:\n  base: budget\n  # between\n  select: null\n  quant:\n    bits: 4\n",
    "r/conf/quant.yaml": "grid: {base: grid, ptq: {utterances: 16}}\nown.1+x: {epochs: 2}\n",
    "r/conf/finetune.yaml": "# settings\nrows: [quant.yaml, ../../conf/quant.yaml]  # mine first\nepochs: 7\nquant: {range: kl}\n",
    "r/conf/longer.yaml": "base: finetune.yaml\nepochs: 9\n",
    "r/conf/best.yaml": "base: ../conf/longer.yaml:budget\nlr: 1e-3\n",
    "r/conf/one.yaml": "rows: quant.yaml\n"}


@pytest.fixture
def conf(tmp_path):
    """A recipe's folder of settings beside the shared one."""
    return write(tmp_path, FILES)


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "r" / "conf"


@pytest.mark.parametrize("path, tree", [
    ("finetune.yaml", {"epochs": 7, "quant": {"range": "kl"}}),
    ("finetune.yaml:float", {"epochs": 7, "quant": {"range": "kl"}}),
    ("finetune.yaml:own.1+x", {"epochs": 2, "quant": {"range": "kl"}}),
    # The recipe's own row, and the row of that name in the next table, which it builds on.
    ("finetune.yaml:grid", {"epochs": 7, "quant": {"bits": 8, "range": "mse"}, "ptq": {"utterances": 16}}),
    # A shared row builds on what the recipe makes of another.
    ("finetune.yaml:budget", {"epochs": 7, "quant": {"bits": 8, "range": "mse"}, "ptq": {"utterances": 16},
                              "select": {"loss": 0.1}}),
    ("finetune.yaml:long", {"epochs": 7, "quant": {"bits": 4, "range": "mse"}, "ptq": {"utterances": 16}, "select": None}),
    ("longer.yaml:own.1+x", {"epochs": 2, "quant": {"range": "kl"}}),
    ("longer.yaml:float", {"epochs": 9, "quant": {"range": "kl"}}),
    ("one.yaml:own.1+x", {"epochs": 2}),
    ("best.yaml", {"epochs": 9, "quant": {"bits": 8, "range": "mse"}, "ptq": {"utterances": 16}, "select": {"loss": 0.1},
                   "lr": 0.001})])
def test_a_row_lies_over_its_file(conf, path, tree):
    assert read_tree(f"{conf}/{path}") == tree


def test_files_and_tables_that_settings_depend_on(conf):
    shared = str(conf.parent.parent / "conf" / "quant.yaml")
    assert config_files(f"{conf}/longer.yaml:budget") == [
        str(conf / "quant.yaml"), shared, str(conf / "longer.yaml"), str(conf / "finetune.yaml")]
    assert row_tables(conf / "longer.yaml") == [str(conf / "quant.yaml"), shared]
    assert row_names(row_tables(conf / "finetune.yaml")) == ["grid", "own.1+x", "float", "budget", "long"]
    assert row_tables(os.devnull) == []


def test_settings_are_the_callers_own(conf):
    read_tree(f"{conf}/finetune.yaml:grid", ["quant.bits=2"])["ptq"]["utterances"] = 1
    assert read_tree(f"{conf}/finetune.yaml:grid")["quant"]["bits"] == 8
    assert read_tree(f"{conf}/finetune.yaml:grid")["ptq"]["utterances"] == 16


def test_a_table_that_changed_is_read_again(conf):
    assert "epochs" in read_tree(f"{conf}/one.yaml:own.1+x")
    (conf / "quant.yaml").write_text("own.1+x: {lr: 1e-2}\n")
    assert read_tree(f"{conf}/one.yaml:own.1+x") == {"lr": 0.01}


def test_a_colon_in_a_files_own_name(conf):
    (conf / "a:b").write_text("epochs: 3\n")
    assert read_tree(conf / "a:b") == {"epochs": 3}
    with pytest.raises(UserError, match="x:y/none.yaml: no such config file"):
        read_tree("x:y/none.yaml")


@pytest.mark.parametrize("files, path, told", [
    ({}, "finetune.yaml:budgt", "finetune.yaml has no row 'budgt'; did you mean budget? Its tables: "),
    ({}, "finetune.yaml:zzz", "finetune.yaml has no row 'zzz'. Its tables: "),
    ({}, "finetune.yaml:", "finetune.yaml has no row ''. Its tables: "),
    ({}, "none.yaml:grid", "none.yaml: no such config file"),
    ({"r/conf/bare.yaml": "epochs: 1\n"}, "bare.yaml:grid", "bare.yaml names no tables of rows"),
    ({"r/conf/bare.yaml": "rows: [none.yaml]\n"}, "bare.yaml", "none.yaml, which it names, is no file"),
    ({"r/conf/bare.yaml": "rows: {a: b}\n"}, "bare.yaml", "bare.yaml: 'rows' names files of rows"),
    ({"r/conf/bare.yaml": "rows:\n- quant.yaml\n"}, "bare.yaml", "bare.yaml: write `rows: ...` on a line of its own"),
    ({"r/conf/bare.yaml": "{base: finetune.yaml}\n"}, "bare.yaml", "bare.yaml: write `base: ...` on a line of its own"),
    ({"r/conf/quant.yaml": "grid: {base: grit}\n"}, "finetune.yaml:grid",
     "quant.yaml:1: row grid builds on 'grit', which is no row; did you mean grid? Its tables: "),
    ({"conf/quant.yaml": "grid: {base: grid}\n"}, "finetune.yaml:grid",
     "quant.yaml:1: row grid builds on 'grid', which is no row. Its tables: none further"),
    ({"r/conf/quant.yaml": "a: {base: b}\n\nb: {base: a}\n"}, "finetune.yaml:a",
     "quant.yaml:3: row b builds on a, which builds on it; a chain of bases must end"),
])
def test_mistakes_about_rows_are_one_line(tmp_path, files, path, told):
    conf = write(tmp_path, {**FILES, **files})
    with pytest.raises(UserError) as error:
        read_tree(f"{conf}/{path}")
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text, told", [
    ("a: {x: 1}\n{b: 1}\n", "not valid YAML"),
    ("{a: {x: 1}}\n", ":1: begin a row with `name:` in the first column"),
    ("- a\n", "a config is a mapping"),
    ("---\na: {x: 1}\n", ":1: begin a row with `name:`"),
    ("a: {x: 1}\n---\nb: {x: 2}\n", "not valid YAML"),
    ("a: {x: 1}\n...\n", ":2: begin a row with `name:`"),
    ("'a': {x: 1}\n", ":1: begin a row with `name:`"),
    ("? a\n: {x: 1}\n", ":1: begin a row with `name:`"),
    ("  a: {x: 1}\n", "each row begins with its name in the first column"),
    ("a: {x: 1,\ny: 2}\n", ":2: 'y' is no row to YAML: indent the line"),
    ("a: {x: 1,\n}\n", ":2: begin a row with `name:`"),
    ("8: {x: 1}\n", ":1: '8' is no row to YAML: indent the line, or call the row something"),
    ("no: {x: 1}\n", ":1: 'no' is no row to YAML"),
    ("a: &it {x: 1}\n", ":1: a table has no anchors (&name)"),
    ("a: {x: &it 1}\nb: {x: *it}\n", ":1: a table has no anchors (&name)"),
    ("a: {x: 1}\nb:\n  <<: {y: 1}\n", ":3: a table has no `<<`; give the row a `base:`"),
    ("a: {x: 1}\na: {x: 2}\n", ":2: not valid YAML: 'a' is given twice, in line 1, too"),
    ("a: {x: 1}\nb: 3\n", ":2: row 'b': its settings are a mapping"),
    ("a_b: {x: 1}\n", ":1: row 'a_b': a row's name is letters, digits and . + -"),
    ("a/b: {x: 1}\n", ":1: row 'a/b': a row's name is"),
    ("a-ptq: {x: 1}\n", ":1: row 'a-ptq': the end -ptq means something else in a system's name"),
    ("a-s3: {x: 1}\n", "the end -s3 means"),
    ("a-int8: {x: 1}\n", "the end -int8 means"),
    ("a-2bit: {x: 1}\n", "the end -2bit means"),
    ("a: {base: 'b'}\nb:\n", ":1: row 'a': write the row that it builds on as `base: NAME`"),
    ("a:\n  base:\n    b\nb:\n", "write the row that it builds on as `base: NAME`"),
    ("a: {base: 3}\n", "write the row that it builds on as `base: NAME`"),
    ("a: {x: {base: b}}\nb:\n", "write the row that it builds on as `base: NAME`"),
])
def test_a_table_is_written_so_that_its_text_shows_the_rows(tmp_path, text, told):
    conf = write(tmp_path, {**FILES, "r/conf/quant.yaml": text})
    with pytest.raises(UserError) as error:
        read_tree(f"{conf}/finetune.yaml:float")
    message = str(error.value)
    assert told in message and "\n" not in message and message.startswith(f"{conf}/quant.yaml")
