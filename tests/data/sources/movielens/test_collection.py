import hashlib
import zipfile

import pytest

from pgrpo_cli.data.sources.movielens.collection import blocks, find_collection
from pgrpo_cli.errors import DataError
from tests.support.movielens import collection

RATINGS = [(1, 1, 4, 10), (1, 2, 5, 20)]


def find(path, *, with_tags=True):
    return find_collection(path.name, path.parent, with_tags=with_tags)


@pytest.mark.parametrize("style", ["csv", "dat", "csv.zip", "dat.zip"])
def test_the_layout_is_told_by_the_names_of_the_files(tmp_path, style):
    path = collection(tmp_path / "ml", RATINGS, tags=[(1, 1, "x", 5)], style=style)
    found = find(path)
    extension = style.partition(".")[0]
    inside = "ml.zip/ml" if style.endswith("zip") else "ml"
    names = [table.name for table in (found.ratings, found.films, found.tags)]
    assert names == [f"{inside}/{table}.{extension}" for table in ("ratings", "movies", "tags")]
    assert found.layout.separator == {"csv": ",", "dat": "::"}[extension]
    assert b"".join(block for _, block in blocks(found.ratings)).endswith(
        {"csv": b"1,2,5,20\n", "dat": b"1::2::5::20\n"}[extension]
    )


def test_files_are_hashed_as_they_are_and_a_zip_file_once(tmp_path):
    path = collection(tmp_path / "ml", RATINGS, tags=[(1, 1, "x", 5)], style="csv.zip")
    (file,) = find(path).files
    assert (file.name, file.sha256) == ("ml.zip", hashlib.sha256(path.read_bytes()).hexdigest())
    path = collection(tmp_path / "folder", RATINGS, tags=[(1, 1, "x", 5)])
    assert [file.name for file in find(path).files] == [
        "folder/ratings.csv",
        "folder/movies.csv",
        "folder/tags.csv",
    ]
    assert len(find(path, with_tags=False).files) == 2


def test_macos_copies_in_a_zip_file_are_not_taken(tmp_path):
    path = collection(tmp_path / "ml", RATINGS, style="csv.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/ml/ratings.csv", "no")
        archive.writestr("ml/deeper/ratings.csv", "no")
    assert find(path).ratings.member == "ml/ratings.csv"


def test_a_wrong_folder_is_told_what_was_looked_for(tmp_path):
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "ratings.csv").touch()
    with pytest.raises(DataError) as caught:
        find(tmp_path / "ml")
    message = str(caught.value)
    assert "lacks ratings.csv with movies.csv or ratings.dat with movies.dat; found: ratings.csv" in message
    assert "folder or zip file of MovieLens" in message


def test_the_folder_above_the_right_one_is_answered_with_that(tmp_path):
    collection(tmp_path / "ml" / "ml-1m", RATINGS, style="dat")
    with pytest.raises(DataError, match=r"Did you mean 'ml/ml-1m'\?"):
        find(tmp_path / "ml")


def test_100k_is_named_as_not_read(tmp_path):
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "u.data").touch()
    with pytest.raises(DataError, match="MovieLens 100K"):
        find(tmp_path / "ml")


def test_a_path_that_does_not_exist_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=rf"'gone' does not exist \(looked for {tmp_path}/gone\)"):
        find(tmp_path / "gone")


def test_a_file_that_is_no_zip_is_named(tmp_path):
    (tmp_path / "ml.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="cannot be read as a zip file"):
        find(tmp_path / "ml.zip")


def test_a_damaged_zip_file_is_named(tmp_path):
    path = collection(tmp_path / "ml", [(1, i, 4, i) for i in range(1, 2000)], style="csv.zip")
    content = bytearray(path.read_bytes())
    content[200:260] = b"\0" * 60
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"ml\.zip/ml/ratings\.csv cannot be read"):
        list(blocks(find(path).ratings))


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_blocks_hold_whole_lines_and_know_their_numbers(tmp_path, size, end):
    path = collection(tmp_path / "ml", RATINGS)
    (path / "ratings.csv").write_bytes(b"\xef\xbb\xbf" * (size >= 3) + b"one\n\nthree\r\nfour" + end)
    table = find(path).ratings
    found = list(blocks(table, size))
    assert b"".join(block for _, block in found) == b"one\n\nthree\r\nfour\n"
    line = 1
    for first, block in found:
        assert first == line
        assert block.endswith(b"\n")
        line += block.count(b"\n")


def test_a_file_without_line_ends_is_no_table(tmp_path, monkeypatch):
    monkeypatch.setattr("pgrpo_cli.data.sources.movielens.collection.LONGEST_LINE", 100)
    path = collection(tmp_path / "ml", RATINGS)
    (path / "ratings.csv").write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match=r"ratings\.csv:1 has no end"):
        list(blocks(find(path).ratings, 64))
