"""A thread that ends this process when another one is gone.

JAX alone notices after its heartbeat timeout, or when a collective fails, and then aborts with a
stack trace. Here every process keeps a connection to process 0; the kernel closes it whatever ends
the process, and process 0 tells the others.
"""

import contextlib
import logging
import os
import socket
import threading
import time

log = logging.getLogger(__name__)

EXIT_CODE = 75  # "temporary failure": whoever started the process may start it again
CONNECT_SECONDS = 30.0
DONE = "done"


class Lifeline:
    """Process 0 listens, the others connect; lines are "<number> done" or "<number> <reason>"."""

    def __init__(self, host: str, port: int, process: int, num_processes: int):
        self.process, self.num_processes = process, num_processes
        self._closed = threading.Event()
        self._peers: dict[int, socket.socket] = {}
        self._lock = threading.Lock()
        try:
            if process == 0:
                self._listen(port)
            else:
                self._connect(host, port)
        except OSError as error:
            # Not worth failing for: without it peers are missed after the heartbeat timeout.
            log.warning("no lifeline at %s:%d (%s)", host, port, error)

    def close(self) -> None:
        """This process ends as it should."""
        self._closed.set()
        self._tell(f"{self.process} {DONE}")

    def fail(self, reason: str) -> None:
        """This process ends because of an error of its own; if a peer was lost, because of that."""
        time.sleep(1.0)  # a lost peer is noticed meanwhile, and ends this process with its line
        self._closed.set()
        self._tell(f"{self.process} {reason}")
        time.sleep(1.0)  # process 0 keeps JAX's service alive until the others have read it

    def _listen(self, port: int) -> None:
        server = socket.create_server(("", port), backlog=self.num_processes)
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        while True:
            peer, _ = server.accept()
            threading.Thread(target=self._greet, args=(peer,), daemon=True).start()

    def _greet(self, peer: socket.socket) -> None:
        """The first line of a peer is its number; what is not one of ours is sent away."""
        peer.settimeout(CONNECT_SECONDS)
        try:
            first = peer.makefile("r", encoding="utf-8", errors="replace").readline().split()
        except OSError:
            first = []
        if len(first) != 2 or first[0] != "opvseg" or not first[1].isdigit():
            peer.close()
            return
        peer.settimeout(None)
        with self._lock:
            self._peers[int(first[1])] = peer
        self._watch(peer, int(first[1]))

    def _connect(self, host: str, port: int) -> None:
        end = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                peer = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        peer.settimeout(None)
        peer.sendall(f"opvseg {self.process}\n".encode())
        self._peers[0] = peer
        threading.Thread(target=self._watch, args=(peer, 0), daemon=True).start()

    def _watch(self, peer: socket.socket, number: int) -> None:
        """Reads until the other side is done, fails, or is gone."""
        line = ""
        with contextlib.suppress(OSError):
            line = peer.makefile("r", encoding="utf-8", errors="replace").readline().strip()
        who, _, what = line.partition(" ")
        if what == DONE or self._closed.is_set():
            return
        self._end(int(who) if who.isdigit() else number, what or "gone without a word")

    def _end(self, number: int, what: str) -> None:
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
        self._tell(f"{number} {what}")
        text = f"opvseg: process {number} of {self.num_processes} ended ({what}); process"
        text += f" {self.process} ends too: start them again to go on from the last checkpoint\n"
        os.write(2, text.encode())
        time.sleep(1.0 if self.process == 0 else 0.0)
        os._exit(EXIT_CODE)

    def _tell(self, line: str) -> None:
        with self._lock:
            peers = list(self._peers.values())
        for peer in peers:
            try:
                peer.sendall((line + "\n").encode())
            except OSError:
                continue
