"""A million paths cost their bytes and eight a path."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti.images.paths import PathBuffer

FILE_NAMES = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(FILE_NAMES))
def test_gives_back_what_was_put_in(paths):
    buffer = PathBuffer(paths)
    assert [buffer[index] for index in range(len(buffer))] == paths
    assert [buffer[index - len(paths)] for index in range(len(buffer))] == paths
    assert list(pickle.loads(pickle.dumps(buffer))) == paths


def test_bytes_that_are_no_text_survive():
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    assert PathBuffer([name])[0] == name


@pytest.mark.parametrize("index", [2, -3])
def test_outside_is_an_index_error(index):
    with pytest.raises(IndexError):
        PathBuffer(["a", "b"])[index]


def test_a_million_paths_are_two_flat_arrays():
    count = 1_000_000
    buffer = PathBuffer(f"n{index:08d}.JPEG" for index in range(count))
    assert buffer[765_432] == "n00765432.JPEG"
    assert buffer.nbytes == count * (len("n00000000.JPEG") + 8) + 8
    assert all(isinstance(held, np.ndarray) for held in vars(buffer).values())
    assert len(pickle.dumps(buffer)) < buffer.nbytes + 1000
