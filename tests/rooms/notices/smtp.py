# SPDX-License-Identifier: Apache-2.0
"""A real SMTP server that records envelopes and answers what a test tells it to."""

import socket

from aiosmtpd.controller import Controller


class Recorder:
    """The server's handler."""

    def __init__(self, **answers):
        self.answers = answers
        self.envelopes = []

    async def handle_RCPT(self, _server, _session, envelope, address, _options):  # noqa: N802
        if "rcpt" in self.answers:
            return self.answers["rcpt"]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, _session, envelope):  # noqa: N802
        self.envelopes.append(envelope)
        if self.answers.get("data") == "hang up":
            server.transport.abort()
            return "250 OK"
        return self.answers.get("data", "250 OK")


class Server:
    """The server on a port of loopback, in a thread of its own, while the block lasts."""

    def __init__(self, port=None, **answers):
        self.recorder = Recorder(**answers)
        self.port = port or free_port()
        self.url = f"smtp://127.0.0.1:{self.port}"
        self.controller = Controller(self.recorder, hostname="127.0.0.1", port=self.port)

    def __enter__(self):
        self.controller.start()
        return self

    def __exit__(self, *_):
        self.controller.stop()

    @property
    def envelopes(self):
        """What was taken, in order."""
        return self.recorder.envelopes


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
