"""A settings file is checked to the last key, in every section and kind of source, and its errors
say what is allowed.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import daemon_settings_reference as reference
import msgspec
import pytest

from edgeadapt.daemon.config.loader import load_settings
from edgeadapt.daemon.config.schema import (
    BudgetSection,
    FolderSource,
    JsonlSink,
    KeepSection,
    MqttSource,
    NpzSource,
    PolicySection,
    SensorSource,
    Settings,
    VideoSource,
)
from edgeadapt.daemon.config.secrecy import read_secret
from edgeadapt.daemon.config.stream_sections import kind_of
from edgeadapt.device.detection.policy import Keep, Policy
from edgeadapt.device.resources.budget import Budget
from edgeadapt.errors import RecipeError

PAGE = Path(__file__).parents[3] / "docs" / "daemon_settings.md"
TOP = 'bundle = "b.edge"\nstate = "state"\nunsigned = "accept"\n'
FOLDER = '[[source]]\nkind = "folder"\npath = "in"\n'
MQTT = '[[source]]\nkind = "mqtt"\nhost = "h"\ntopic = "{}"\n{}\n'
JSONL = '[[sink]]\nkind = "jsonl"\npath = "out.jsonl"\n'


def load(folder: Path, text: str) -> Settings:
    path = folder / "serve.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(folder, text)
    start, message = f"{folder / 'serve.toml'}: ", str(caught.value)
    assert message.startswith(start) and "\n" not in message
    return message[len(start) :]


def test_the_smallest_file_has_the_documented_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path, TOP)
    assert (settings.bundle, settings.state, settings.runtime, settings.trust) == (
        tmp_path / "b.edge",
        tmp_path / "state",
        "auto",
        (),
    )
    loop, control = settings.loop, settings.control
    assert (loop.batch, loop.queue, loop.drop, loop.rate_hz, loop.checkpoint_s) == (
        1,
        256,
        "oldest",
        None,
        300.0,
    )
    assert (control.listen, control.token_file, control.max_body_mib, control.timeout_s) == (
        "127.0.0.1:8420",
        None,
        16.0,
        10.0,
    )
    assert (
        settings.budget.p99_ratio == 1.5
        and settings.metrics.enabled
        and settings.source == settings.sink == ()
    )


@pytest.mark.parametrize(
    ("section", "kind"), [(PolicySection, Policy), (BudgetSection, Budget), (KeepSection, Keep)]
)
def test_the_sections_of_the_learner_have_its_defaults(
    section: type[msgspec.Struct], kind: type
) -> None:
    given, theirs = section(), {field.name: field.default for field in dataclasses.fields(kind)}
    shared = [name for name in section.__struct_fields__ if name in theirs]
    assert {name: getattr(given, name) for name in shared} == {
        name: theirs[name] for name in shared
    }
    assert len(shared) >= 3


def test_every_kind_of_source_and_sink_is_read_and_named(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        TOP
        + FOLDER
        + """label_from = "parent"
[[source]]
kind = "sequence"
path = "/frames"
rate_hz = 5
[[source]]
kind = "npz"
name = "replay"
path = "x.npz"
rate_hz = 2.5
loop = true
[[source]]
kind = "video"
stream = "gate"
url = "rtsp://camera/1"
every = 3
[[source]]
kind = "mqtt"
name = "floor"
stream = "hall"
host = "broker"
topic = "plant/+/image/#"
username = "u"
password_file = "secret"
tls = true
port = 8883
[[source]]
kind = "sensor"
path = "vibration.csv"
window = 64
hop = 16
rate_hz = 100
"""
        + JSONL
        + '[[sink]]\nkind = "mqtt"\nhost = "broker"\ntopic = "answers"\n',
    )
    assert [(kind_of(s), s.name, s.stream) for s in settings.source] == [
        ("folder", "folder", "folder"),
        ("sequence", "sequence", "sequence"),
        ("npz", "replay", "replay"),
        ("video", "gate", "gate"),
        ("mqtt", "floor", "hall"),
        ("sensor", "sensor", "sensor"),
    ]
    folder, _, npz, video, mqtt, sensor = settings.source
    assert isinstance(folder, FolderSource) and (folder.path, folder.label_from) == (
        tmp_path / "in",
        "parent",
    )
    assert isinstance(npz, NpzSource) and npz.loop and npz.rate_hz == 2.5
    assert isinstance(video, VideoSource) and (video.url, video.file, video.every) == (
        "rtsp://camera/1",
        None,
        3,
    )
    assert isinstance(mqtt, MqttSource) and (mqtt.password_file, mqtt.port) == (
        tmp_path / "secret",
        8883,
    )
    assert isinstance(sensor, SensorSource) and (sensor.window, sensor.hop) == (64, 16)
    assert [(kind_of(s), s.name) for s in settings.sink] == [("jsonl", "jsonl"), ("mqtt", "mqtt")]
    assert (
        isinstance(settings.sink[0], JsonlSink) and settings.sink[0].path == tmp_path / "out.jsonl"
    )


def test_paths_keys_and_the_socket_are_taken_from_the_folder_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path.parent)
    text = (
        'bundle = "/a/b.edge"\nstate = "s"\ntrust = ["maker.pub", "ed25519:abc",'
        ' "/k.pub"]\n[control]\nlisten = "unix:run.sock"\n'
    )
    (tmp_path / "serve.toml").write_text(text)
    settings = load_settings(f"{tmp_path.name}/serve.toml")
    assert settings.bundle == Path("/a/b.edge") and settings.state == tmp_path / "s"
    assert settings.trust == (str(tmp_path / "maker.pub"), "ed25519:abc", "/k.pub")
    assert (
        settings.control.listen == f"unix:{tmp_path}/run.sock"
        and settings.control.socket == tmp_path / "run.sock"
    )


@pytest.mark.parametrize(
    ("listen", "address", "is_local"),
    [
        ("127.0.0.1:8420", ("127.0.0.1", 8420), True),
        ("[::1]:0", ("::1", 0), True),
        ("localhost:80", ("localhost", 80), True),
        ("0.0.0.0:8420", ("0.0.0.0", 8420), False),
        ("[::]:8420", ("::", 8420), False),
        ("plant.example:8420", ("plant.example", 8420), False),
    ],
)
def test_an_address_that_others_can_reach_needs_a_token(
    tmp_path: Path, listen: str, address: tuple[str, int], is_local: bool
) -> None:
    text = f'{TOP}[control]\nlisten = "{listen}"\n'
    if not is_local:
        assert refusal(tmp_path, text).startswith(
            "control.token_file is missing; allowed: a file with a token"
        )
        text += 'token_file = "token"\n'
    control = load(tmp_path, text).control
    assert (control.address, control.is_local) == (address, is_local)
    assert control.token_file == (None if is_local else tmp_path / "token")


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        (
            TOP + 'bundel = "x"\n',
            "unknown key bundel;",
            "did you mean 'bundle'? allowed: bundle, state, trust",
        ),
        (TOP.replace("bundle", "#"), "bundle is missing;", "a path"),
        (TOP.replace('"b.edge"', "3"), "bundle = 3;", "a path"),
        (TOP.replace('"b.edge"', '""'), "bundle = '';", "a path"),
        (TOP.replace('"b.edge"', r'"a\u0000b"'), r"bundle = 'a\x00b';", "a path"),
        (TOP.replace("accept", "allow"), "unsigned = 'allow';", "'accept' or 'refuse'"),
        (
            TOP.replace("unsigned", "#"),
            "trust is missing;",
            "the public keys of those who may sign",
        ),
        (TOP + 'trust = ["k"]\n', "unsigned = 'accept'", "only without trust"),
        (TOP + "trust = [3]\n", "trust = [3];", "a list, each a text"),
        (TOP.replace('"state"', '"no/state"'), "/no/state';", "a folder whose parent exists"),
        (
            TOP.replace('"state"', "'" + "n" * 300 + "/state'"),
            "nn/state';",
            "a folder whose parent exists",
        ),
        (
            TOP + '[loop]\ndrop = "newer"\n',
            "loop.drop = 'newer';",
            "'newest' or 'oldest' or 'wait'",
        ),
        (TOP + "[loop]\nbatch = 0\n", "loop.batch = 0;", "a whole number >= 1 and <= 4096"),
        (TOP + "[loop]\nbatch = 8\nqueue = 4\n", "loop.batch = 8;", "at most loop.queue = 4"),
        (TOP + "[loop]\nrate_hz = 0\n", "loop.rate_hz = 0;", "a number >= 0.001 and <= 100000"),
        (TOP + "[loop]\nrate_hz = nan\n", "loop.rate_hz = nan;", "a number >= 0.001"),
        (TOP + "[loop]\ncheckpoint_s = inf\n", "loop.checkpoint_s = inf;", "a number >= 1"),
        (
            TOP + "[budget]\nbusy_fracton = 0.1\n",
            "unknown key budget.busy_fracton;",
            "did you mean 'busy_fraction'?",
        ),
        (
            TOP + "[budget]\np99_ratio = 0.9\n",
            "budget.p99_ratio = 0.9;",
            "a number >= 1 and <= 1000",
        ),
        (
            TOP + "[budget]\ntemperature_c = 'hot'\n",
            "budget.temperature_c = 'hot';",
            "a number > 0 and <= 200",
        ),
        (TOP + "[keep]\nrows = 99\n", "keep.rows = 99;", "a whole number >= 100"),
        (
            TOP + "[policy]\nadapt = 'learn'\n",
            "policy.adapt = 'learn';",
            "'act' or 'advise' or 'off'",
        ),
        (TOP + "[metrics]\nenabled = 1\n", "metrics.enabled = 1;", "true or false"),
        (TOP + "[control]\nlisten = '8420'\n", "control.listen = '8420';", "a text that matches"),
        (
            TOP + "[control]\nlisten = '127.0.0.1:70000'\n",
            "control.listen = '127.0.0.1:70000';",
            "a port < 65536",
        ),
        (
            TOP + f"[control]\nlisten = 'unix:/{'s' * 120}'\n",
            "control.listen = 'unix:/sss",
            "at most 107 bytes",
        ),
        (
            TOP + '[source]\nkind = "folder"\n',
            "source = {'kind': 'folder'};",
            "a list (its heading in double brackets), each a section of kind 'folder' or",
        ),
        (
            TOP + "[[source]]\npath = 'x'\n",
            "source[0].kind is missing;",
            "'folder' or 'sequence' or 'npz' or 'video' or 'mqtt' or 'sensor'",
        ),
        (
            TOP + FOLDER + '[[source]]\nkind = "foldr"\n',
            "source[1].kind = 'foldr';",
            "did you mean 'folder'? allowed: 'folder' or 'sequence'",
        ),
        (TOP + "[[source]]\nkind = 3\n", "source[0].kind = 3;", "'folder' or"),
        (
            TOP + FOLDER + "pathh = 'x'\n",
            "unknown key source[0].pathh;",
            "did you mean 'path'? allowed: kind, name, stream, path",
        ),
        (
            TOP + FOLDER + '[[source]]\nkind = "npz"\nrate_hz = 1\n',
            "source[1].path is missing;",
            "a path",
        ),
        (
            TOP + FOLDER + '[[source]]\nkind = "npz"\nrate_hz = "fast"\npath = "x"\n',
            "source[1].rate_hz = 'fast';",
            "a number >= 0.001",
        ),
        (TOP + FOLDER + "path2 = 'x'\n", "unknown key source[0].path2;", "did you mean 'path'?"),
        (
            TOP + FOLDER + "label_from = 'name'\n",
            "source[0].label_from = 'name';",
            "'none' or 'parent'",
        ),
        (TOP + FOLDER + "name = '../x'\n", "source[0].name = '../x';", "a text that matches"),
        (
            TOP + FOLDER + FOLDER,
            "source[1].name = 'folder' is that of source[0] too;",
            "every name and every stream once",
        ),
        (
            TOP + FOLDER + "stream = 'a'\n" + FOLDER + "name = 'b'\nstream = 'a'\n",
            "source[1].stream = 'a' is that of source[0] too;",
            "every stream once",
        ),
        (
            TOP + '[[source]]\nkind = "video"\n',
            "source[0] has no input;",
            "exactly one of source[0].file, source[0].url and source[0].pipeline",
        ),
        (
            TOP + '[[source]]\nkind = "video"\nfile = "a"\npipeline = "b"\n',
            "source[0] has a file and a pipeline;",
            "exactly one",
        ),
        (
            TOP + '[[source]]\nkind = "video"\nurl = "camera"\n',
            "source[0].url = 'camera';",
            "a text that matches",
        ),
        (
            TOP + '[[source]]\nkind = "sensor"\npath = "x.wav"\nwindow = 8\nrate_hz = 1\n',
            "/x.wav';",
            "a .csv or .npz file",
        ),
        (
            TOP + MQTT.format("a/#/b", ""),
            "source[0].topic = 'a/#/b';",
            "# for all that follow, at the end",
        ),
        (TOP + MQTT.format("a+", ""), "source[0].topic = 'a+';", "+ for one whole level"),
        (
            TOP + MQTT.format("a", "password_file = 'p'"),
            "source[0].username is missing;",
            "the name that source[0].password_file belongs to",
        ),
        (
            TOP + MQTT.format("a", "port = 0"),
            "source[0].port = 0;",
            "a whole number >= 1 and < 65536",
        ),
        (
            TOP + MQTT.format("a", "password = 'p'"),
            "unknown key source[0].password;",
            "did you mean 'password_file'?",
        ),
        (TOP + JSONL + JSONL, "sink[1].name = 'jsonl' is that of sink[0] too;", "every name once"),
        (
            TOP + JSONL + JSONL + "name = 'b'\n",
            "/out.jsonl' is that of sink[0] too;",
            "a file of its own",
        ),
        (
            TOP + '[[sink]]\nkind = "mqtt"\nhost = "h"\ntopic = "a/+"\n',
            "sink[0].topic = 'a/+';",
            "without + and #",
        ),
        (
            TOP + "source = 3\n",
            "source = 3;",
            "a list (its heading in double brackets), each a section of kind",
        ),
        (TOP + "source = [3]\n", "source[0] = 3;", "a section of kind 'folder' or"),
        ("loop = 3\n" + TOP, "loop = 3;", "a section with batch, queue, drop"),
        (TOP + "[loop\n", "cannot be read as TOML", "line 4"),
        (TOP + "#" * 300_000, "more than 262144 bytes;", "a settings file is a page of text"),
    ],
)
def test_an_error_names_file_key_value_and_what_is_allowed(
    tmp_path: Path, text: str, key: str, allowed: str
) -> None:
    message = refusal(tmp_path, text)
    assert key in message and allowed in message, message


def test_a_secret_is_one_line_and_is_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"s3cret-of-mine\r\n")
    assert read_secret(path) == "s3cret-of-mine"
    for content in (
        b"",
        b"\n",
        b"s3cret\nof mine\n",
        b" s3cret",
        b"s3cret\x00",
        "s3cret\u00e9".encode(),
        b"s3cret" * 1000,
    ):
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=r"token: ") as caught:
            read_secret(path)
        assert "s3cret" not in str(caught.value)
    with pytest.raises(RecipeError, match=r"none: the secret in it cannot be read: No such file"):
        read_secret(tmp_path / "none")


def test_the_reference_is_that_of_the_settings() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference.render(), (
        "python tools/daemon_settings_reference.py > docs/daemon_settings.md"
    )


def test_the_reference_has_a_meaning_for_every_key_of_every_section() -> None:
    page = PAGE.read_text(encoding="utf-8")
    sections = [
        *PolicySection.__mro__[1].__subclasses__(),
        *FolderSource.__mro__[1].__subclasses__(),
        *JsonlSink.__mro__[1].__subclasses__(),
    ]
    assert len(sections) == 8 + 6 + 2
    listed = 0
    for section in sections:
        for key in section.__struct_fields__:
            is_section = section is Settings and key in (
                "policy",
                "budget",
                "keep",
                "loop",
                "control",
                "metrics",
                "telemetry",
                "source",
                "sink",
            )
            assert is_section or f"| `{key}` |" in page, (section, key)
            listed += not is_section
    assert page.count("\n| `") == listed > 50


def test_the_example_of_the_reference_is_accepted(tmp_path: Path) -> None:
    example = PAGE.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    settings = load(tmp_path, example.replace("/var/lib/edgeadapt/state", "state"))
    assert [kind_of(section) for section in (*settings.source, *settings.sink)] == [
        "folder",
        "jsonl",
    ]
