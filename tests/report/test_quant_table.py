"""The paper's table: order, classes, ratios, escapes; in Markdown, LaTeX and HTML."""

import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svq.bin import results_md
from svq.errors import UserError
from svq.names import Names, names_in_conf
from svq.report import paper_table
from svq.report.markdown import markers
from svq.report.results import Row, System, in_order, read_results, read_systems
from tests.helpers import run_worker
from tests.report import quantized

NAN = float("nan")
NAMES = Names(names_in_conf().quant | {"4bit", "own2"})


def row(name, eer=10.0, bits=4.0, trials="test", norm="none", size=1_000_000, **changes):
    values = dict(system=name, trials=trials, backend="cosine", norm=norm, eer=eer, mindcf01=0.5, mindcf05=0.4,
                  cllr=0.3, avg_bits=bits, size_bytes=size, params=5, mincllr=0.2, actdcf01=0.6, eer_low=NAN,
                  eer_high=NAN, num_target=5, num_nontarget=50)
    return Row(**{**values, **changes})


def system(name, family="KMQAT", average=4.0, parent="net", root="net", kind="Uniform"):
    return System(name, parent, root, family, "", kind, average, {})


FLOAT = system("net", "Float", 32.0, None, "net", "-")


def table(rows, known):
    (found,) = paper_table.paper_tables(rows, {each.name: each for each in known})
    return found


def texts(found):
    return [[cell.text for cell in line.cells] for line in found.lines]


@pytest.mark.parametrize("name, method, layers, expected", [
    ("small", None, None, (None, "small", "Float", "", "-")),
    ("small_float", None, None, (None, "small", "Float", "", "-")),
    ("small_float-s2", None, None, (None, "small", "Float", "s2", "-")),
    ("small_kmqat4", "kmqat", None, ("small", "small", "KMQAT", "", "Uniform")),
    ("small_kmqat4-r100", "kmqat", None, ("small", "small", "KMQAT", "r100", "Uniform")),
    ("small_4bit", "uniform", None, ("small", "small", "Uniform", "", "Uniform")),
    ("small_4bit", "kmqat", {"conv1": 8}, ("small", "small", "Mixed", "", "Mixed {4, 8}")),
    ("small_mixed1.7-s2", "kmqat", {"conv1": 32, "embedding": 1},
     ("small", "small", "Mixed", "s2", "Mixed {1, 4, 32}")),
    ("small_twn-s2", "twn", None, ("small", "small", "TWN", "s2", "Ternary")),
    ("small_static-ptq", "static", None, ("small", "small", "Static", "ptq", "Binary")),
    ("small_best1", "adaptive", None, ("small", "small", "Best", "", "Binary")),
    ("small-s2", None, None, (None, "small-s2", "Float", "s2", "-")),
    ("small_other", "kmqat", None, (None, "small_other", "KMQAT", "", "Uniform")),
    ("small_own2", "pot", None, ("small", "small", "own", "", "Uniform")),
    ("small_float_kmqat4", "kmqat", None, ("small_float", "small", "KMQAT", "", "Uniform")),
    ("orphan_kmqat4", "kmqat", None, (None, "orphan_kmqat4", "KMQAT", "", "Uniform")),
])
def test_what_a_system_is(tmp_path, name, method, layers, expected):
    from svq.config import dump_config
    from svq.network import ModelConfig
    from svq.quant import QuantConfig

    default = {"twn": 2, "static": 1, "adaptive": 1}.get(method, 4)
    quant = None if method is None else QuantConfig(method=method, bits=default, layers=layers)
    for each, config in (("small", None), ("small_float", None), (name, quant)):
        (tmp_path / each).mkdir(exist_ok=True)
        dump_config(ModelConfig(**quantized.NET, quant=config), tmp_path / each / "config.yaml")
    bits = 32.0 if quant is None else 3.5
    rows = [row("small", bits=32.0), row("small_float", bits=32.0), row(name, bits=bits)]
    found = read_systems(tmp_path, rows, NAMES)[name]
    assert (found.parent, found.root, found.family, found.variant, found.kind) == expected
    assert found.average == bits
    if quant is not None:
        assert found.bits["conv1"] == (layers or {}).get("conv1", default)
        assert found.mixed == found.kind.startswith("Mixed")


@pytest.mark.parametrize("name, expected", [
    ("small-int8", ("small", "small", "")),
    ("small_float-int8", ("small_float", "small", "")),
    ("small_kmqat4-ptq-int8", ("small", "small", "kmqat4-ptq")),
    ("small_float_kmqat4-int8", ("small_float", "small", "kmqat4")),
    ("orphan-int8", (None, "orphan-int8", "")),
])
def test_what_an_exported_system_is(tmp_path, name, expected):
    """Its folder has no config and no weights."""
    quantized.write_exp(tmp_path, {"small": None, "small_float": None})
    rows = [row("small", bits=32.0), row("small_float", bits=32.0), row(name, bits=8.0)]
    found = read_systems(tmp_path / "exp", rows, NAMES)[name]
    assert (found.parent, found.root, found.variant) == expected
    assert (found.family, found.kind, found.average, found.bits) == ("INT8", "INT8 arithmetic", 8.0, {})


@pytest.mark.parametrize("name, family", [("small_integer4-ptq", "Integer"), ("small_selected8-ptq", "Selected"),
                                          ("small_selective8", "Selective")])
def test_families_without_training(tmp_path, name, family):
    from svq.quant import QuantConfig

    quantized.write_exp(tmp_path, {"small": None, name: QuantConfig(method="integer", bits=8)})
    found = read_systems(tmp_path / "exp", read_results(tmp_path / "exp" / "results.tsv"), NAMES)
    assert found[name].family == family and found[name].parent == "small"


def test_a_choice_that_left_everything_in_float_is_a_float_system(tmp_path):
    from svq.config import dump_config
    from svq.nets.blocks import blocks_of
    from svq.network import ModelConfig
    from svq.quant import QuantConfig

    net = ModelConfig(**quantized.NET)
    layers = {layer: 32 for names in blocks_of(net.build()).values() for layer in names}
    quantized.write_exp(tmp_path, {"small": None, "small_selected8-ptq": None})
    kept = ModelConfig(**quantized.NET, quant=QuantConfig(method="integer", bits=8, layers=layers))
    dump_config(kept, tmp_path / "exp" / "small_selected8-ptq" / "config.yaml")
    rows = [row("small", bits=32.0), row("small_selected8-ptq", bits=32.0)]
    found = read_systems(tmp_path / "exp", rows, NAMES)["small_selected8-ptq"]
    assert (found.root, found.family, found.bits) == ("small", "Float", {})


def test_a_config_at_odds_with_the_results(tmp_path):
    quantized.write_exp(tmp_path, {"small": None})
    with pytest.raises(UserError, match=r"small/config.yaml: 4 bits in the results, no quantization here; redo"):
        read_systems(tmp_path / "exp", [row("small")], NAMES)
    with pytest.raises(UserError, match=r"other/config.yaml: no such config file"):
        read_systems(tmp_path / "exp", [row("other")], NAMES)


def test_rows_by_network_method_and_falling_bits():
    names = [("b_kmqat2", "b", "KMQAT", 2.0), ("b", "b", "Float", 32.0), ("a_best2", "a", "Best", 2.0),
             ("a_kmqat2", "a", "KMQAT", 2.0), ("a_kmqat4", "a", "KMQAT", 4.0), ("a_own", "a", "own", 3.0),
             ("a_uniform2", "a", "Uniform", 2.0), ("a", "a", "Float", 32.0)]
    known = [system(name, family, bits, root=root) for name, root, family, bits in names]
    ordered = [each.name for each in in_order(known)]
    assert ordered == ["b", "b_kmqat2", "a", "a_uniform2", "a_kmqat4", "a_kmqat2", "a_best2", "a_own"]
    rows = [row(name, bits=bits) for name, _, _, bits in names]
    known = [system(name, family, bits, None, root) for name, root, family, bits in names]
    opens = [line.opens for line in table(rows, known).lines]
    assert opens == ["", "family", "root", "family", "family", "", "family", "family"]


def test_bits_sizes_and_ratios():
    rows = [row("net", bits=32.0, size=26_660_000), row("net_mixed1.7", bits=1.7, size=1_580_000),
            row("alone", bits=2.0, size=500_000)]
    known = [FLOAT, system("net_mixed1.7", "Mixed", 1.7, kind="Mixed {1, 2}"),
             system("alone", average=2.0, parent=None, root="alone")]
    assert texts(table(rows, known)) == [
        ["net", "-", "32", "26.660", "-", "10.00", "0.500"],
        ["net_mixed1.7", "Mixed {1, 2}", "1.7", "1.580", "16.87", "10.00", "0.500"],
        ["alone", "Uniform", "2", "0.500", "-", "10.00", "0.500"]]


def test_the_best_of_a_class():
    """Of the same network, list and bits rounded up: the lowest EER and all whose intervals meet its; none where that is all."""
    def known_row(name, bits, eer, half=0.1, **changes):
        return row(name, eer, bits, eer_low=eer - half, eer_high=eer + half, **changes)

    rows = [known_row("net", 32.0, 1.0), known_row("net_a4", 4.0, 5.0), known_row("net_b4", 4.0, 5.15), known_row("net_c4", 3.2, 5.3),
            known_row("net_a2", 2.0, 9.0), known_row("net_b2", 2.03, 8.9, mindcf01=0.1), known_row("net_c2", 2.1, 7.0),
            known_row("net_a1", 1.0, 7.0), row("net_b1", 9.0, 1.0)]
    known = [FLOAT] + [system(each.system, average=each.avg_bits) for each in rows[1:]]
    bold = {line.cells[0].text for line in table(rows, known).lines if any(cell.bold for cell in line.cells)}
    assert bold == {"net_a4", "net_b4"}  # of 2 bits both cannot be told apart, of 1 bit one has no interval
    assert not any(line.cells[column].bold for line in table(rows, known).lines for column in (6, 7))
    assert [paper_table.bit_class(bits) for bits in (1.0, 1.1, 1.7, 2.03, 2.1, 4.0, 32.0)] == [1, 2, 2, 2, 3, 4, 32]


def test_interval_and_before_finetuning_only_where_known():
    rows = [row("net", bits=32.0), row("net_a4", eer=4.0), row("net_a4", eer=5.0, trials="dev"),
            row("net_a4-ptq", eer=44.444), row("net_b4-ptq", eer=33.0)]
    known = [FLOAT] + [system(name) for name in ("net_a4", "net_a4-ptq", "net_b4-ptq")]
    found = table(rows, known)
    assert found.groups == [("test", 3), ("dev", 3)]
    assert found.heads[5:] == ["EER (%)", "minDCF(0.01)", "EER (%) before finetuning"] * 2
    cells = {line[0]: line[5:] for line in texts(found)}
    assert cells == {"net": ["10.00", "0.500", "-", "-", "-", "-"],
                     "net_a4": ["4.00", "0.500", "44.44", "5.00", "0.500", "-"],
                     "net_b4-ptq": ["33.00", "0.500", "-", "-", "-", "-"]}
    rows[1] = row("net_a4", eer=4.0, eer_low=3.0, eer_high=5.5)
    found = table(rows, known)
    assert found.heads[5:9] == ["EER (%)", "95 % interval", "minDCF(0.01)", "EER (%) before finetuning"]
    assert texts(found)[1][5:9] == ["4.00", "3.00 to 5.50", "0.500", "44.44"]


def test_only_some_rows_keep_their_ratios_and_what_was_before():
    rows = [row("net", bits=32.0, size=8_000_000), row("net_a4"), row("net_b4"), row("net_a4-ptq", eer=20.0)]
    known = {each.name: each for each in [FLOAT, system("net_a4"), system("net_b4"), system("net_a4-ptq")]}
    (found,) = paper_table.paper_tables(rows, known, rows[1:2])
    assert texts(found) == [["net_a4", "Uniform", "4", "1.000", "8.00", "10.00", "0.500", "20.00"]]
    assert not any(cell.bold for cell in found.lines[0].cells)


def test_a_table_for_each_back_end_and_normalization():
    rows = [row("net", bits=32.0, norm=norm, backend=backend, eer=eer)
            for backend, norm, eer in (("cosine", "none", 1.0), ("plda", "none", 2.0), ("cosine", "asnorm", 3.0))]
    tables = paper_table.paper_tables(rows, {"net": FLOAT})
    assert [(t.backend, t.norm, texts(t)[0][5]) for t in tables] == [
        ("cosine", "none", "1.00"), ("plda", "none", "2.00"), ("cosine", "asnorm", "3.00")]
    text = paper_table.as_markdown(tables)
    assert re.findall("^### .*", text, re.M) == ["### cosine, none", "### plda, none", "### cosine, asnorm"]
    lines = [line for line in text.split("\n") if line.startswith("|")]
    assert {line.count("|") for line in lines} == {8}


names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="|"), min_size=1, max_size=12)


def unescaped(text, char):
    return re.findall(r"(?<!\\)(?:\\\\)*" + re.escape(char), text)


@given(names, names, names)
def test_latex_holds_together_whatever_the_names(name, trials, norm):
    name, trials, norm = (text.replace("\\", "\\x") for text in (name, trials, norm))
    other = f"{name}_"
    rows = [row(name, bits=32.0, trials=trials, norm=norm),
            row(other, trials=trials, norm=norm, eer_low=1.0, eer_high=2.0)]
    known = [system(name, "Float", 32.0, None, name, "-"), system(other, parent=name, root=name, kind="Mixed {1, 2}")]
    tex = paper_table.as_latex([table(rows, known)] * 2)
    body = tex[tex.index(r"\begin{document}"):]
    # Every escape is a letter command, an escaped sign, or the end of a line; what is left must be plain.
    plain = re.sub(r"\\text(backslash|asciitilde|asciicircum)\{\}|\\[&%$#_{}]", "", body)
    assert not re.search(r"[%$#_^~]", plain)
    assert plain.count("{") == plain.count("}")
    assert re.findall(r"\\begin\{(\w+)\}", body) == ["document", "tabular", "tabular"]
    assert re.findall(r"\\end\{(\w+)\}", body) == ["tabular", "tabular", "document"]
    columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", body).group(1))
    for line in plain.split("\n"):
        if line.endswith(r"\\"):
            spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            assert line.count("&") + 1 + sum(n - 1 for n in spans) == columns
    assert columns == 8 and body.count(r"\toprule") == body.count(r"\bottomrule") == body.count(r"\midrule") == 2


def test_latex_of_a_known_table():
    rows = [row("net", bits=32.0), row("net_a4", eer=4.0), row("net_b4", eer=5.0)]
    known = [FLOAT, system("net_a4", kind="Mixed {3, 4}"), system("net_b4", "Best")]
    lines = paper_table.as_latex([table(rows, known)]).split("\n")
    assert lines[1].startswith(r"\documentclass") and r"\usepackage{booktabs}" in lines
    start = lines.index(r"\begin{tabular}{llrrrrr}")
    assert lines[start + 1 : start + 4] == [
        r"\toprule", r" &  &  &  &  & \multicolumn{2}{c}{test} \\", r"\cmidrule(lr){6-7}"]
    assert lines[start + 5 : start + 13] == [
        r"\midrule", r"net & - & 32 & 1.000 & - & 10.00 & 0.500 \\", r"\addlinespace",
        r"net\_a4 & Mixed \{3, 4\} & 4 & 1.000 & 1.00 & 4.00 & 0.500 \\", r"\addlinespace",
        r"net\_b4 & Uniform & 4 & 1.000 & 1.00 & 5.00 & 0.500 \\", r"\bottomrule", r"\end{tabular}"]


def test_html_is_escaped_and_marks_the_best():
    rows = [row("net", bits=32.0, trials="<t>"), row("net_a4", trials="<t>", eer_low=9.5, eer_high=10.5),
            row("net_b4", eer=12.0, trials="<t>", eer_low=11.5, eer_high=12.5)]
    text = paper_table.as_html(table(rows, [FLOAT, system("net_a4", kind="<kind>"), system("net_b4")]))
    text = re.sub(r' data-h="[^"]*"', "", text)
    assert '<th class="group" colspan="2">&lt;t&gt;</th>' in text and '<td class="l">&lt;kind&gt;</td>' in text
    assert '<td class="edge best">10.00<small>9.50 to 10.50</small></td>' in text
    assert '<td class="edge">12.00<small>11.50 to 12.50</small></td>' in text
    assert {line.count("<td") for line in re.findall("<tr[^>]*>(<td.*?)</tr>", text)} == {7}


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    quantized.write_exp(root)
    return root / "exp"


def test_worker_in_the_layout_of_the_paper(exp, tmp_path):
    page = tmp_path / "R.md"
    begin, end = markers("table3")
    page.write_text(f"# Mine\n<!-- results:begin -->\nkept\n<!-- results:end -->\n{begin}\nold\n{end}\n")
    run_worker(results_md.main, "--results", exp / "results.tsv", "--exp", exp, "--into", page, "--marker", "table3",
               "--layout", "paper", "--only", "norm=asnorm", "--only", "trials=test", "--hardware", "2 cores",
               "--latex", tmp_path / "t.tex")
    rows = read_results(exp / "results.tsv")
    wanted = [r for r in rows if (r.norm, r.trials) == ("asnorm", "test")]
    tables = paper_table.paper_tables(rows, read_systems(exp, rows, NAMES), wanted)
    text = page.read_text()
    assert text == (f"# Mine\n<!-- results:begin -->\nkept\n<!-- results:end -->\n{begin}\n\non 2 cores.\n\n"
                    f"{paper_table.as_markdown(tables)}\n\n{end}\n")
    assert (tmp_path / "t.tex").read_text() == paper_table.as_latex(tables)
    cells = {line[0]: line for line in texts(tables[0])}
    assert list(cells) == ["small", "small_float", "small_uniform4", "small_uniform2", "small_kmqat4",
                           "small_kmqat4-r100", "small_kmqat2", "small_mixed2", "small_mixed2-onestage",
                           "small_static", "small_adaptive"]
    size = {r.system: r.size_bytes for r in rows}
    assert cells["small_mixed2"][4] == f"{size['small'] / size['small_mixed2']:.2f}"
    assert cells["small_mixed2"][1] == "Mixed {1, 2, 3, 4}"
    before = next(r.eer for r in wanted if r.system == "small_kmqat4-ptq")
    assert cells["small_kmqat4"][-1] == f"{before:.2f}" and cells["small_kmqat2"][-1] == "-"


def test_worker_without_a_config(exp, tmp_path):
    shutil.copy(exp / "results.tsv", tmp_path)
    page = tmp_path / "R.md"
    page.write_text("<!-- results:begin -->\n<!-- results:end -->\n")
    before = page.read_bytes()
    with pytest.raises(UserError, match="small/config.yaml: no such config file"):
        run_worker(results_md.main, "--results", tmp_path / "results.tsv", "--exp", tmp_path, "--into", page,
                   "--layout", "paper")
    with pytest.raises(UserError, match="no line '<!-- other:begin -->'"):
        run_worker(results_md.main, "--results", tmp_path / "results.tsv", "--into", page, "--marker", "other")
    assert page.read_bytes() == before


def test_systems_of_a_network_are_those_that_the_recipe_makes_of_it():
    from argparse import Namespace

    from svq.bin.quant_report import chosen

    names = ["my", "my_net", "my_kmqat4", "my_net_kmqat4", "my-int8", "my_net_kmqat4-ptq-int8", "my_kmqat4-s2", "my_float"]
    args = Namespace(parent="my", systems=[], trials=[], backend="", norm="")
    found = chosen([row(name) for name in names], args, Names(NAMES.quant, is_network=names.__contains__))
    assert [each.system for each in found] == ["my", "my_kmqat4", "my-int8", "my_kmqat4-s2", "my_float"]


@pytest.mark.parametrize("bits, family", [(32.0, "Float"), (2.0, "File")])
def test_a_file_that_was_made_elsewhere_belongs_to_no_system(tmp_path, bits, family):
    quantized.write_exp(tmp_path, {"small": None})
    (tmp_path / "exp" / "box").mkdir()
    rows = [row("small", bits=32.0), row("box", bits=bits)]
    (tmp_path / "exp" / "box" / "summary.json").write_text('{"file": "model.svq"}')
    with pytest.raises(UserError, match="box/config.yaml"):  # a folder that has lost its config is none
        read_systems(tmp_path / "exp", rows, NAMES)
    (tmp_path / "exp" / "box" / "summary.json").write_text('{"file": "box.onnx", "given": true}')
    found = read_systems(tmp_path / "exp", rows, NAMES)["box"]
    assert (found.parent, found.root, found.family, found.bits, found.average) == (None, "box", family, {}, bits)
