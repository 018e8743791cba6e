from __future__ import annotations

from hqvox.config.build import IdentityConfig
from pipelines.identity import IdentityStage
from tests.helpers.stage_fakes import STORE, FakeEmbedder, MemoryPixels, face_row, plain_photo

RED, GREEN, BLUE, REDDISH = (250, 10, 10), (10, 250, 10), (10, 10, 250), (250, 60, 10)


def judged(*people: tuple[int, int, int], same_photo: tuple[int, ...] = (), **config: float):
    """One photo per person by colour; ``same_photo``: rows that share photo 0."""
    stage = IdentityStage(IdentityConfig(**config), STORE)
    stage.embedder = FakeEmbedder()
    rows = []
    for i, person in enumerate(people):
        (row,) = stage.process([face_row(candidate=i)], MemoryPixels(plain_photo(person)))
        rows.append(row | {"candidate": 0 if i in same_photo else i})
    stage.compare(rows)
    return rows


def reasons(rows: list) -> list[str | None]:
    return [row["reason"] for row in rows]


def test_a_stranger_among_many_is_someone_else():
    rows = judged(RED, RED, GREEN, RED)
    assert reasons(rows) == [None, None, "someone_else", None]
    assert rows[0]["core_similarity"] > 0.99
    assert rows[2]["core_similarity"] < 0.2
    assert len(rows[0]["embedding"]) == 3


def test_without_a_majority_nobody_is_guessed():
    rows = judged(RED, RED, GREEN, GREEN)
    assert reasons(rows) == ["no_majority"] * 4
    assert reasons(judged(RED, GREEN)) == ["no_majority"] * 2


def test_two_agreeing_faces_and_a_single_one_pass():
    assert reasons(judged(RED, RED)) == [None, None]
    (row,) = judged(RED)
    assert (row["reason"], row["core_similarity"]) == (None, None)


def test_of_one_photo_only_the_most_similar_face_is_the_person():
    rows = judged(REDDISH, RED, RED, RED, same_photo=(0, 1))
    assert reasons(rows) == ["someone_else", None, None, None]


def test_the_configured_similarity_goes_before_the_networks():
    assert reasons(judged(RED, RED, REDDISH)) == [None, None, None]
    assert reasons(judged(RED, RED, REDDISH, min_similarity=0.999))[2] == "someone_else"


def test_an_identity_without_faces_and_the_networks_of_the_configuration():
    stage = IdentityStage(IdentityConfig(network="facenet_vggface2"), STORE)
    assert stage.networks == ("facenet_vggface2",)
    stage.embedder = FakeEmbedder()
    stage.compare(stage.process([], MemoryPixels(plain_photo())))
