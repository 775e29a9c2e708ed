"""Named users: what each role may ask, under whose name labels are kept, and a file that
changes.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Shell
from msgspec.structs import replace

pytest.importorskip("edgeadapt.daemon.http.server")  # with starlette and uvicorn

from http_client import ask
from kiosk import TOKEN, kiosk, serving  # noqa: F401

from edgeadapt.daemon.config.loader import load_settings
from edgeadapt.daemon.config.schema import ControlSection, FolderSource, Settings
from edgeadapt.daemon.config.users import ROLES, Users, add_user, digest_of, remove_user
from edgeadapt.daemon.http import page
from edgeadapt.daemon.http import route as api
from edgeadapt.daemon.http.openapi import ALL_ROUTES
from edgeadapt.daemon.http.server import Control
from edgeadapt.daemon.service import Service
from edgeadapt.demo.sample import Sample
from edgeadapt.errors import InputError, RecipeError


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    return {role: add_user(tmp_path / "users", f"one-{role}", role) for role in ROLES}


# -- what each role may ask ------------------------------------------------------------------------
MAY = {
    "view": {
        "POST /v1/predict",
        "GET /v1/quality",
        "GET /v1/questions",
        "GET /v1/questions/{id}/image",
        "GET /v1/classes",
        "GET /v1/history",
        "GET /v1/decisions",
        "GET /v1/status",
        "GET /v1/series",
        "GET /v1/latest/image",
        "GET /v1/me",
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
        "GET /openapi.json",
    },
    "label": {"POST /v1/observe", "POST /v1/labels", "POST /v1/withdraw"},
    "admin": {
        "POST /v1/forget",
        "POST /v1/classes",
        "DELETE /v1/classes/{name}",
        "POST /v1/rollback",
        "POST /v1/freeze",
        "POST /v1/pause",
        "POST /v1/checkpoint",
        "POST /v1/swap",
    },
}


def test_every_route_has_the_role_that_is_written_down_here_and_none_has_no_role(
    kiosk: Any,
) -> None:
    table = {f"{route.method} {route.path}": route.role for route in ALL_ROUTES}
    assert table == {name: role for role, names in MAY.items() for name in names}
    with pytest.raises(TypeError):
        api.Route("GET", "/v1/new", run=lambda service, asked: None, answer=None)  # type: ignore[call-arg]
    app = Control(kiosk, "127.0.0.1:0")._authentication._app
    served = {route.path.replace(":path", "") for route in app.routes}
    assert served == page.PATHS | {route.path for route in ALL_ROUTES}


def test_every_route_is_401_without_a_user_403_under_its_role_and_answered_from_it_on(
    kiosk: Any,
    tokens: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeadapt.daemon.http.connection_shares._LONGEST_WAIT_S", 0.0)
    reached: list[str] = []
    monkeypatch.setattr(
        api, "answer", lambda route, *given: reached.append(route.path) or api.Reply(b"{}")
    )
    with serving(kiosk, "0.0.0.0:0", users=Users(tmp_path / "users")) as url:
        near = url.replace("0.0.0.0", "127.0.0.1")
        for route in ALL_ROUTES:
            path = route.path.replace("{", "").replace("}", "")
            for headers in ({}, bearer("another"), {"Authorization": tokens["admin"]}):
                assert ask(near, route.method, path, None, headers).status == 401
            for role in ROLES:
                before = len(reached)
                said = ask(near, route.method, path, None, bearer(tokens[role]))
                if ROLES.index(role) >= ROLES.index(route.role):
                    assert said.status == 200 and len(reached) == before + 1
                else:
                    assert (said.status, said.kind) == (403, "Forbidden") and len(reached) == before
                    assert (
                        f"one-{role} has the role {role}, and this needs {route.role}"
                        in said.json["error"]
                    )
        assert ask(near, "HEAD", "/v1/status", None, bearer(tokens["view"])).status in (200, 405)


def test_the_single_token_is_an_admin_beside_users_and_each_is_told_who_it_is(
    kiosk: Any,
    tokens: dict[str, str],
    tmp_path: Path,
) -> None:
    with serving(kiosk, token=TOKEN, users=Users(tmp_path / "users")) as url:
        assert ask(url, "GET", "/v1/me", None, bearer(TOKEN)).json == {"name": "", "role": "admin"}
        assert ask(url, "POST", "/v1/freeze", {"frozen": False}, bearer(TOKEN)).status == 200
        for role in ROLES:
            said = ask(url, "GET", "/v1/me", None, bearer(tokens[role])).json
            assert said == {"name": f"one-{role}", "role": role}
    with serving(kiosk) as url:
        assert ask(url, "GET", "/v1/me").json == {"name": "", "role": "admin"}


def test_a_user_who_may_not_is_refused_before_the_body_is_read(
    kiosk: Any,
    tokens: dict[str, str],
    tmp_path: Path,
) -> None:
    with serving(kiosk, max_body_mib=0.01, users=Users(tmp_path / "users")) as url:
        assert ask(url, "POST", "/v1/observe", b"x" * 20_000, bearer(tokens["view"])).status == 403
        assert ask(url, "POST", "/v1/observe", b"x" * 20_000, bearer(tokens["label"])).status == 413


# -- who said so -----------------------------------------------------------------------------------
def test_a_label_is_kept_under_the_users_name_whatever_the_client_claims(
    serve: Callable[..., Service], settings: Callable[..., Settings], sample: Sample, tmp_path: Path
) -> None:
    token = add_user(tmp_path / "users", "anna", "label")
    service = serve(
        settings(control=ControlSection(listen="127.0.0.1:0", users_file=tmp_path / "users"))
    )
    url = service.control.url
    seen = ask(
        url, "POST", "/v1/observe", {"x": sample.x[:2].tolist(), "names": ["p", "q"]}, bearer(token)
    ).json
    ids = [answer["id"] for answer in seen["answers"]]
    given = {
        "labels": [{"sample": ids[0], "label": "Coat"}, {"sample": "q", "label": "Coat"}],
        "source": "boss",
    }
    assert ask(url, "POST", "/v1/labels", given, bearer(token)).json["received"] == 2
    assert service.forget(source="boss").removed == 0
    assert service.forget(source="anna").removed == 2


def test_labels_are_taken_back_by_who_gave_them_or_by_an_admin(
    serve: Callable[..., Service], settings: Callable[..., Settings], sample: Sample, tmp_path: Path
) -> None:
    file = tmp_path / "users"
    anna, bert, carl = (
        bearer(add_user(file, name, role))
        for name, role in (("anna", "label"), ("bert", "label"), ("carl", "admin"))
    )
    service = serve(settings(control=ControlSection(listen="127.0.0.1:0", users_file=file)))
    url = service.control.url
    ids = [answer.id for answer in service.observe(sample.x[:3])]
    for number, who in enumerate((anna, bert, anna)):
        given = {"labels": [{"sample": ids[number], "label": "Coat"}]}
        assert ask(url, "POST", "/v1/labels", given, who).json["received"] == 1

    def withdraw(who: dict[str, str], *samples: str) -> Any:
        return ask(url, "POST", "/v1/withdraw", {"samples": samples}, who)

    refused = withdraw(anna, ids[0], ids[1])
    assert refused.status == 422 and f"{ids[1]!r} is not 'anna'" in refused.json["error"]
    assert service.status()["learner"]["evidence"].get("withdrawn", 0) == 0
    assert withdraw(anna, ids[0]).json == {"withdrawn": 1}
    # the last word counts, and is bert's
    said = {"labels": [{"sample": ids[2], "label": "Pullover"}]}
    assert ask(url, "POST", "/v1/labels", said, bert).json["received"] == 1
    assert withdraw(anna, ids[2]).status == 422 and withdraw(bert, ids[2]).status == 200
    assert withdraw(carl, ids[1]).json == {"withdrawn": 1}


# -- the file --------------------------------------------------------------------------------------
def test_the_file_keeps_no_token_and_its_owner_alone_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "users"
    token = add_user(file, "anna", "label")
    assert len(token) >= 32 and token not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == f"anna label {digest_of(token)}\n"
    file.chmod(0o640)
    assert add_user(file, "bert", "admin") != token
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    users = Users(file)
    assert (
        users.find(token).name == "anna"
        and users.find(token[:-1]) is None
        and users.find("") is None
    )
    remove_user(file, "anna")
    assert users.find(token) is not None
    users.renew()
    assert users.find(token) is None and [user.name for user in users] == ["bert"]


_ADD = """
import sys
from pathlib import Path
from edgeadapt.daemon.config.users import add_user, remove_user
for number in range(20):
    add_user(Path(sys.argv[1]), f"{sys.argv[2]}-{number}", "view")
remove_user(Path(sys.argv[1]), f"{sys.argv[2]}-7")
"""


def test_two_processes_that_change_the_file_at_once_lose_no_change(tmp_path: Path) -> None:
    file = tmp_path / "users"
    both = [subprocess.Popen([sys.executable, "-c", _ADD, str(file), name]) for name in ("a", "b")]
    assert [one.wait(60) for one in both] == [0, 0]
    left = {f"{name}-{number}" for name in "ab" for number in range(20) if number != 7}
    assert {user.name for user in Users(file)} == left
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_change_does_not_wait_for_ever_for_another_and_follows_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, lock = tmp_path / "users", tmp_path / ".users.lock"
    monkeypatch.setattr("edgeadapt.daemon.config.users._PATIENCE_S", 0.05)
    add_user(file, "anna", "view")
    with open(lock) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process changes it"):
            remove_user(file, "anna")
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"\.users\.lock: cannot be locked"):
        add_user(file, "bert", "view")
    assert not (tmp_path / "elsewhere").exists() and [user.name for user in Users(file)] == ["anna"]


@pytest.mark.parametrize(
    "text, why",
    [
        ("anna label\n", "line 1 is not NAME ROLE SHA256"),
        (f"anna root {'0' * 64}\n", "the role 'root'; allowed: view, label, admin"),
        (f"an/na view {'0' * 64}\n", "line 1 is not NAME"),
        (
            f"# who\nanna view {'0' * 64}\nanna admin {'1' * 64}\n",
            "line 3: anna or its token stands there twice",
        ),
        (f"anna view {'0' * 64}\nbert admin {'0' * 64}\n", "bert or its token stands there twice"),
        (f"belt label {'0' * 64}\n", "'belt' is what labels of a source"),
        (f"page label {'0' * 64}\n", "'page' is what labels of a source"),
        ("x" * (2 << 20), "over 1048576 bytes"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_not_in_order_is_refused_by_its_line(
    text: str | None, why: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "users").write_text(text)
    with pytest.raises(RecipeError, match=why):
        Users(tmp_path / "users", frozenset({"belt"}))


def test_a_file_that_others_may_write_or_a_fifo_in_its_place_is_refused_at_once(
    tmp_path: Path,
) -> None:
    add_user(tmp_path / "users", "anna", "admin")
    (tmp_path / "users").chmod(0o666)
    with pytest.raises(RecipeError, match="can add an admin; chmod o-w"):
        Users(tmp_path / "users")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(RecipeError, match="no regular file"):
        Users(tmp_path / "fifo")


def test_a_name_is_given_once_and_is_a_name(tmp_path: Path) -> None:
    add_user(tmp_path / "users", "anna", "view")
    for name, why in (
        ("anna", "there is a user 'anna' already"),
        ("a b", "1 to 64"),
        ("http", "take another"),
    ):
        with pytest.raises(InputError, match=why):
            add_user(tmp_path / "users", name, "view")
    with pytest.raises(InputError, match="no user 'bert'"):
        remove_user(tmp_path / "users", "bert")


# -- a daemon --------------------------------------------------------------------------------------
def test_a_reload_lets_the_new_in_and_the_removed_out_even_where_the_settings_are_broken(
    serve: Callable[..., Service], settings: Callable[..., Settings], tmp_path: Path
) -> None:
    file = tmp_path / "users"
    anna = add_user(file, "anna", "admin")
    file.chmod(0o644)
    made = settings(control=ControlSection(listen="127.0.0.1:0", users_file=file))

    def reread() -> Settings:
        if is_broken:
            raise RecipeError("not TOML")
        return made

    is_broken: list[bool] = []
    service = serve(made, reread=reread)
    url = service.control.url
    bert = add_user(file, "bert", "view")
    assert ask(url, "GET", "/v1/me", None, bearer(bert)).status == 401
    assert (
        service.reload()["ok"]
        and ask(url, "GET", "/v1/me", None, bearer(bert)).json["role"] == "view"
    )
    remove_user(file, "anna")
    is_broken.append(True)
    assert not service.reload()["ok"]
    assert ask(url, "GET", "/v1/me", None, bearer(anna)).status == 401
    file.write_text("nonsense\n")
    assert (
        "NAME ROLE SHA256" in service.reload()["why"]
        and "NAME ROLE SHA256" in service.health()["problems"][0]
    )
    assert ask(url, "GET", "/v1/me", None, bearer(bert)).status == 200


def test_no_user_is_called_like_a_source_whichever_of_the_two_is_new_at_a_reload(
    serve: Callable[..., Service], settings: Callable[..., Settings], tmp_path: Path
) -> None:
    file = tmp_path / "users"
    anna, bert = add_user(file, "anna", "admin"), add_user(file, "bert", "view")
    (tmp_path / "in").mkdir()
    bare = settings(control=ControlSection(listen="127.0.0.1:0", users_file=file))

    def with_source(name: str) -> Settings:
        return replace(bare, source=(FolderSource(name=name, stream=name, path=tmp_path / "in"),))

    read = [with_source("anna")]
    service = serve(bare, reread=lambda: read[0])

    def may(token: str) -> bool:
        return ask(service.control.url, "GET", "/v1/me", None, bearer(token)).status == 200

    remove_user(file, "bert")
    assert "'anna' is what labels of a source" in service.reload()["why"]
    assert "'anna' is what labels of a source" in service.health()["problems"][0]
    assert (
        may(anna) and not may(bert) and not service.context.settings.source
    )  # who was removed is out
    read[0] = with_source("belt")
    assert service.reload()["ok"] and service.context.settings.source
    belt = add_user(file, "belt", "label")
    assert "'belt' is what labels of a source" in service.reload()["why"]
    assert may(anna) and not may(belt)
    read[0] = with_source("door")  # the source gives the name away
    assert service.reload()["ok"] and may(belt) and not service.health()["problems"]


def test_a_file_that_everyone_can_read_is_warned_of(
    settings: Callable[..., Settings], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from edgeadapt.daemon.lifecycle.factory import users_of

    add_user(tmp_path / "users", "anna", "view")
    (tmp_path / "users").chmod(0o644)
    with caplog.at_level(logging.WARNING):
        users_of(settings(control=ControlSection(users_file=tmp_path / "users")))
    assert "every user of this machine can read it" in caplog.text


def test_users_are_made_by_a_command_checked_by_serve_and_work_with_ctl(
    serve: Callable[..., Service],
    settings: Callable[..., Settings],
    sample: Sample,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shell, file = Shell(capsys), tmp_path / "users"
    for name, role in (("anna", "view"), ("bert", "label"), ("carl", "admin")):
        token = shell("users", file, "--add", name, "--role", role)
        assert f"{name} has the role {role}" in shell.error
        (tmp_path / name).write_text(token)
    assert shell("users", file).split() == ["anna", "view", "bert", "label", "carl", "admin"]
    service = serve(settings(control=ControlSection(listen="127.0.0.1:0", users_file=file)))
    id_ = service.observe(sample.x[:1])[0].id

    def ctl(name: str, *asked: str, code: int = 0) -> str:
        return shell(
            "ctl",
            "--url",
            service.control.url,
            "--token-file",
            tmp_path / name,
            "--json",
            *asked,
            code=code,
        )

    assert json.loads(ctl("anna", "status"))["ready"] is True
    ctl("anna", "label", id_, "Coat", code=2)
    assert "anna has the role view, and this needs label" in shell.error
    assert json.loads(ctl("bert", "label", id_, "Coat"))["received"] == 1
    ctl("bert", "freeze", code=2)
    assert "bert has the role label, and this needs admin" in shell.error
    assert json.loads(ctl("carl", "forget", "--source", "bert"))["removed"] == 1
    (tmp_path / "in").mkdir()
    (tmp_path / "edge.toml").write_text(
        'bundle = "b.edge"\nstate = "state"\nunsigned = "accept"\n'
        '[[source]]\nkind = "folder"\nname = "belt"\npath = "in"\n'
    )
    shell("users", file, "--add", "belt", "--settings", tmp_path / "edge.toml", code=2)
    assert "'belt' is what labels of a source are under" in shell.error
    shell("users", file, "--remove", "bert")
    assert "SIGHUP" in shell.error and shell("users", file).split() == [
        "anna",
        "view",
        "carl",
        "admin",
    ]


def test_another_machine_is_answered_with_users_and_no_token(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(
        'bundle = "b.edge"\nstate = "state"\nunsigned = "accept"\n[control]\nlisten = "0.0.0.0:0"\n'
    )
    with pytest.raises(RecipeError, match=r"control\.users_file"):
        load_settings(tmp_path / "edge.toml")
    with open(tmp_path / "edge.toml", "a") as file:
        file.write('users_file = "users"\n')
    assert load_settings(tmp_path / "edge.toml").control.users_file == tmp_path / "users"
