import pytest

from si_dagster.tasks.grading.code_extraction import flexible_code, normal_code, strict_code

CODE = "def f(x):\n    return x * x"


@pytest.mark.parametrize(
    ("completion", "strict"),
    [
        (CODE, True),
        (CODE + "\n[DONE]\n\nYou are an expert Python programmer", True),
        ("[BEGIN]\n" + CODE + "\n[DONE]", True),
        (f"```python\n{CODE}\n```", True),
        (f"```\n{CODE}\n```", True),
        (f"~~~python\n{CODE}\n~~~", True),
        (f"Sure, here you go:\n\n```python\n{CODE}\n```\n\nThis squares x.", False),
        (f"```py\n{CODE}\n```\nUse it like this:\n```python\nprint(f(3))\n```", False),
        (f"First:\n```bash\npip install x\n```\nthen\n```python\n{CODE}\n```", False),
        (f"```python\n{CODE}", True),
        (f"1. Do this:\n   ```python\n   {CODE.replace(chr(10), chr(10) + '   ')}\n   ```", False),
        (f"Here is the function:\n\n{CODE}\n\nIt squares its argument.", False),
        (f"{CODE}\n\nThis function squares: it's simple!", False),
        (f"{CODE}<|im_end|>\n<|im_start|>user", True),
        (f"The function f squares.\n\n{CODE}\n\n# Test\n", False),
    ],
)
def test_the_program_is_found(completion, strict):
    found = flexible_code(completion, {"f"})
    assert found is not None
    assert normal_code(found.answer) == normal_code(CODE)
    alone = strict_code(completion)
    assert (alone is not None and normal_code(alone.answer) == normal_code(CODE)) == strict


def test_imports_of_an_earlier_block_are_kept():
    found = flexible_code(
        "```python\nimport math\n```\nand\n```python\ndef f(x):\n    return math.sqrt(x)\n```", {"f"}
    )
    assert found.answer.startswith("import math")


def test_a_cut_off_program_keeps_the_lines_that_parse():
    found = flexible_code("def f(x):\n    return x\n\ndef g(y):\n    return (y +", {"f"})
    assert found.answer.strip() == "def f(x):\n    return x"


def test_text_without_code_is_given_back_or_nothing():
    assert flexible_code("   ", {"f"}) is None
    assert flexible_code("I cannot do that.", {"f"}).rule == "whole"
