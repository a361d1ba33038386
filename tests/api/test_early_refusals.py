"""What cannot work is refused before the data are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diptych import api
from diptych.core.errors import DiptychError, MissingExtra, RunError, UnknownName


class Unread:
    """A data set that fails the test when it is touched."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the data were read ({name})")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/run cannot be made: .*file: not a directory"):
        api.train("clip", Unread(), tmp_path / "file" / "run", steps=1)
    assert not list(tmp_path.glob(".diptych-*"))


@pytest.mark.parametrize("options", [{"image_tower": "vit_micr"}, {"text_tower": "text_tin"}])
def test_a_tower_that_does_not_exist(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean"):
        api.train("clip", Unread(), tmp_path / "run", steps=1, **options)


@pytest.mark.parametrize(
    ("option", "module"), [({"lora": "8"}, "peft"), ({"wandb": True}, "wandb"), ({"mlflow": True}, "mlflow")]
)
def test_a_package_that_is_not_installed(
    option: dict[str, Any], module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diptych.api.checking.find_spec", lambda name: None if name == module else object())
    with pytest.raises(MissingExtra, match=module):
        api.train("clip", Unread(), tmp_path / "run", steps=1, **option)


def test_recipes_with_towers_of_their_own_pass() -> None:
    from diptych.api.checking import refuse_early
    from diptych.core.registry import RECIPES
    from diptych.train.options import TrainOptions

    for entry in RECIPES.values():
        kind = entry.load()
        for preset in kind.presets:
            refuse_early(kind.preset(preset), TrainOptions())


def test_columns_are_given_alike_to_read_and_train(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    table = tmp_path / "table.csv"
    table.write_text("where,says\na.png,a red bus\n", encoding="utf-8")
    first = api.read(table, columns={"image": "where", "text": "says"})
    second = api.read(table, image="where", text="says")
    assert first.uids == second.uids
    assert first[0].texts == second[0].texts
    assert api.read(table, columns={"image": "where", "text": "nothing"}, text="says").uids == first.uids
    with pytest.raises(DiptychError, match="nothing"):
        api.read(table, columns={"image": "nothing"})
    with pytest.raises(UnknownName, match="did you mean 'image'"):
        api.read(table, columns={"imge": "where"})


def test_an_opened_model_is_exported_as_its_run_is(tmp_path: Path) -> None:
    small = {"batch_size": 4, "image_tower": "vit_micro", "text_tower": "text_micro", "image_size": 48, "progress": False}
    run = api.train("clip", "world:scenes?n=12", tmp_path / "run", steps=1, **small)
    folders = [api.export(each, tmp_path / name, to="diptych") for name, each in (("a", run.path), ("b", api.load(run.path)))]
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert first == second
