"""What a finished grid shows: curves and tables."""

from domainvl.benchmark import table
from domainvl.benchmark.cells import ZERO_SHOT
from domainvl.benchmark.plot import draw


def rows(adapter, shots, values, part="all", dataset="set"):
    about = {"dataset": dataset, "part": part, "adapter": adapter, "shots": shots, "metric": "accuracy"}
    drawn = {"low": 0.1, "high": 0.9, "headline": True}
    return [{**about, **drawn, "value": value, "seed": seed} for seed, value in enumerate(values)]


def test_curves_show_every_adapter_and_zero_shot(tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    found = rows(ZERO_SHOT, None, [0.5]) + rows("MMRL", None, [0.9]) + rows("CoOp", 4, [0.6])
    found += rows("MMRL", 1, [0.5, 0.6, 0.7]) + rows("MMRL", 4, [0.7, 0.8, 0.9])
    draw(tmp_path, found)
    picture = (tmp_path / "curves.svg").read_text()
    for text in (ZERO_SHOT, "MMRL", "CoOp", ">set<", ">accuracy<", ">1<", ">4<", ">all<", "n = 1 to 3"):
        assert text in picture, text
    assert draw(tmp_path, rows(ZERO_SHOT, None, [0.5])) == []


def test_both_harmonic_means_are_printed_with_their_names(capsys):
    found = []
    for name, base, novel in (("a", 0.9, 0.5), ("b", 0.5, 0.9)):
        for part, value in (("base", base), ("novel", novel), ("hm", 2 * base * novel / (base + novel))):
            found += rows(ZERO_SHOT, None, [value], part, name)
            found += rows("MMRL", 16, [value, value], part, name)
    table.show(found)
    said = capsys.readouterr().out.splitlines()
    rule = next(place for place, line in enumerate(said) if "(the rule)" in line)
    other = next(place for place, line in enumerate(said) if "(other papers)" in line)
    assert any("MMRL" in line and "0.700" in line for line in said[rule:other])
    assert any("MMRL" in line and "0.643" in line for line in said[other:])
    assert "n = 2" in said[-1]
    mean = said.index("mean of 2 data sets, base: accuracy")
    assert any("MMRL" in line and "0.700 ±0.000" in line for line in said[mean:])


def test_cells_of_other_data_are_told(capsys):
    def cell(split, shots):
        return {"dataset": "a", "shots": 1, "seed": 1, "hashes": {"split": split, "shots": shots}}

    table.check_same_data([cell("s", "t"), cell("s", "t")])
    assert not capsys.readouterr().err
    table.check_same_data([cell("s", "t"), cell("u", "t"), cell("s", "v")])
    said = capsys.readouterr().err
    assert "warning: a: test split is not the same in all cells (s and u)" in said
    assert "1 shots of seed 1" in said


def test_trained_parameters_stand_beside_the_numbers(capsys):
    def cell(adapter, shots, count):
        interval = {"value": 0.5, "low": 0.4, "high": 0.6}
        part = {"adapted": {"accuracy": interval}, "split": "s", "n": {"images": 9, "patients": 3}}
        return {
            "dataset": "set",
            "protocol": "few-shot",
            "adapter": adapter,
            "shots": shots,
            "seed": 1,
            "seconds": 1.0,
            "cell": f"{adapter}{shots}",
            "multilabel": False,
            "hashes": {},
            "trained": {"parameters": count},
            "parts": {"all": part},
        }

    found = table.rows([cell("LoRA", 1, 46080), cell("Tip", 1, 1500), cell("Tip", 4, 6000)])
    assert [row["parameters"] for row in found] == [46080, 1500, 6000]
    table.show(found)
    said = capsys.readouterr().out
    assert "46,080" in said
    assert "1,500 to 6,000" in said
