"""docs/reliability.md tells the truth about what is tested."""

from support.faults import ROW, TABLE, covering_tests, written


def test_the_table_names_the_tests_there_are():
    text = TABLE.read_text()
    assert written(text) == text, "write it anew: python tests/support/faults.py"
    promised = {int(number): promise for number, _, promise in ROW.findall(text)}
    assert list(promised) == list(range(1, 39))
    untested = [number for number, promise in promised.items() if promise.startswith("not promised")]
    assert set(covering_tests()) == set(promised) - set(untested)
