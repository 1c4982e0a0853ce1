"""The calls of the Hub that the real client makes for models, on 127.0.0.1: repositories, commits, LFS, downloads."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_local"


class LocalHub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Calls)
        self.repos, self.private, self.blobs, self.calls = {}, {}, {}, []
        self.cut = None
        """A part of a path; calls of it have their connection cut."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *failure):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass

    def took(self, method, part):
        return [path for how, path in self.calls if how == method and part in path]


class _Calls(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def answer(self, status=200, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle_call(self):
        hub, path = self.server, self.path.partition("?")[0]
        hub.calls.append((self.command, path))
        sent = self.body()
        if hub.cut and hub.cut in path:
            self.close_connection = True
            self.connection.close()
            return
        if path.startswith("/blob/"):
            hub.blobs[path.removeprefix("/blob/")] = sent
            return self.answer()
        if path == "/api/validate-yaml":
            return self.answer(body={"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "no"}, X_Error_Code="RepoNotFound" if "/api/models" in path else "")
        if path == "/api/repos/create":
            wanted = json.loads(sent)
            name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
            known = name in hub.repos
            hub.repos.setdefault(name, {})
            private = wanted["private"] if "private" in wanted else wanted["visibility"] == "private"
            hub.private.setdefault(name, private)
            return self.answer(409 if known else 200, {"url": f"{hub.url}/{name}", "id": name})
        parts = path.removeprefix("/api/models").strip("/").split("/")
        name = f"{parts[0]}/{parts[1].removesuffix('.git')}"
        if name not in hub.repos:
            return self.answer(404, {"error": "no"}, X_Error_Code="RepoNotFound")
        return self.repository(hub.repos[name], name, parts[2:], sent)

    do_GET = do_POST = do_PUT = do_HEAD = handle_call

    def repository(self, files, name, parts, sent):
        hub, verb = self.server, parts[0] if parts else ""
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        if verb in ("", "revision"):
            siblings = [{"rfilename": file} for file in sorted(files)]
            about = {"id": name, "sha": commit, "siblings": siblings, "private": hub.private[name]}
            return self.answer(body={**about, "tags": [], "downloads": 0, "cardData": {"license": "mit"}})
        if verb == "tree":
            rows = [
                {"type": "file", "path": file, "size": len(data), "oid": _sha(data)} for file, data in files.items()
            ]
            return self.answer(body=rows)
        if verb == "preupload":
            rows = json.loads(sent)["files"]
            mode = {True: "lfs", False: "regular"}
            return self.answer(
                body={
                    "files": [
                        {"path": row["path"], "shouldIgnore": False, "uploadMode": mode[_large(row["path"])]}
                        for row in rows
                    ]
                }
            )
        if verb == "info":
            objects = []
            for row in json.loads(sent)["objects"]:
                put = {"actions": {"upload": {"href": f"{hub.url}/blob/{row['oid']}"}}}
                objects.append({**row, **({} if row["oid"] in hub.blobs else put)})
            return self.answer(body={"transfer": "basic", "objects": objects})
        if verb == "commit":
            for line in map(json.loads, sent.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    files[value["path"]] = hub.blobs[value["oid"]]
            return self.answer(body={"commitUrl": f"{hub.url}/{name}/commit/1", "commitOid": "1", "success": True})
        file = "/".join(parts[2:])
        if verb != "resolve" or file not in files:
            return self.answer(404, {"error": "no"}, X_Error_Code="EntryNotFound")
        data = files[file]
        return self.answer(body=data, ETag=f'"{_sha(data)}"', X_Repo_Commit=commit)


def _large(path):
    return path.endswith((".safetensors", ".onnx"))


def _sha(data):
    return hashlib.sha256(data).hexdigest()
