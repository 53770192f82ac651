from raystage.data.split import HoldOut, KeepApart, Side
from tests.data.made_text import made_documents


def test_share_held_out_is_the_fraction() -> None:
    texts = made_documents(5000, n_words=4)
    held_out = sum(HoldOut(0.1).side(text) is Side.VALIDATION for text in texts)
    assert abs(held_out - 500) < 90  # 4 standard deviations


def test_larger_fraction_holds_out_the_same_and_more() -> None:
    texts = made_documents(1000, n_words=4)
    small, large = ({text for text in texts if HoldOut(fraction).side(text) is Side.VALIDATION} for fraction in (0.05, 0.2))
    assert small < large


def test_side_is_of_the_text_alone() -> None:
    # fixed for ever: another hash would move documents of old corpora to the other side
    sides = "".join(HoldOut(0.5).side(str(i)).value[0] for i in range(16))
    assert sides == "vtvttvttttvtvtvt"


def test_own_validation_text_is_dropped_from_training() -> None:
    split = KeepApart.of(["a", "b"])
    assert [split.side(text) for text in ("a", "b", "c", "A")] == [Side.DROPPED, Side.DROPPED, Side.TRAIN, Side.TRAIN]
