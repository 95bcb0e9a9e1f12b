import hashlib

from fields.data.bucket import Bucket
from fields.scene.grammar import ALL_ROUTE_CATEGORIES
from pipelines.data.scene import prepare_scene


def test_the_data_is_the_same_every_time(tmp_path):
    first, second = (prepare_scene(tmp_path / name, rows=30) for name in ("a", "b"))
    digests = [[hashlib.sha256(path.read_bytes()).hexdigest() for path in paths] for paths in (first, second)]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 4


def test_categories_are_balanced_and_edits_have_sources(tmp_path):
    for path in prepare_scene(tmp_path, rows=24):
        bucket = Bucket(path)
        categories = ALL_ROUTE_CATEGORIES[path.stem]
        tasks = [bucket[n].task for n in range(24)]
        assert {task: tasks.count(task) for task in categories} == dict.fromkeys(categories, 24 // len(categories))
        assert all((bucket[n].source_image is not None) == (path.stem != "text_to_image") for n in range(24))


def test_existing_files_are_left_alone(tmp_path):
    paths = prepare_scene(tmp_path, rows=6)
    prepare_scene(tmp_path, rows=12)
    assert len(Bucket(paths[0])) == 6
