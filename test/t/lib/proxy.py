#!/usr/bin/env python3
"""A network between the relay and Redis that can be cut.

	proxy.py LISTEN TARGET		paths of unix sockets

Standard input, a line each:
	cut		bytes of the connections there are now stay on the way, in both
			directions, even after their ends have closed; new ones work
	heal	what stayed on the way arrives, late
	refuse	new connections are closed at once
	accept	and are accepted again
	quit
Every line is answered with "ok" when it has taken effect.
"""
import selectors
import socket
import sys


class Link:
    """One connection: what each side has sent and the other not yet got."""

    def __init__(self, client, server):
        self.client = client
        self.server = server
        self.to_server = b""
        self.to_client = b""
        self.client_closed = False
        self.server_closed = False
        self.is_cut = False


class Proxy:
    def __init__(self, path, target):
        self.target = target
        self.links = []
        self.refusing = False
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(50)
        self.lines = b""

    def accept(self):
        client, _ = self.listener.accept()
        if self.refusing:
            client.close()
            return
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(self.target)
        except OSError:
            client.close()
            server.close()
            return
        client.setblocking(False)
        server.setblocking(False)
        self.links.append(Link(client, server))

    def read(self, source):
        """Bytes, b"" for nothing now, None for the end."""
        try:
            return source.recv(65536) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None

    def pull(self, link):
        """Takes what both sides have sent, which a cut does not hinder."""
        while not link.client_closed:
            data = self.read(link.client)
            if data is None:
                link.client_closed = True
            elif not data:
                break
            else:
                link.to_server += data
        while not link.server_closed and not link.is_cut:
            data = self.read(link.server)
            if data is None:
                link.server_closed = True
            elif not data:
                break
            else:
                link.to_client += data

    def push(self, link):
        if link.is_cut:
            return
        try:
            while link.to_server:
                link.to_server = link.to_server[link.server.send(link.to_server):]
        except BlockingIOError:
            pass
        except OSError:
            link.server_closed = True
        try:
            while link.to_client and not link.client_closed:
                link.to_client = link.to_client[link.client.send(link.to_client):]
        except BlockingIOError:
            pass
        except OSError:
            link.client_closed = True

    def close(self, link):
        link.client.close()
        link.server.close()
        self.links.remove(link)

    def command(self, line):
        if line == "cut":
            for link in self.links:
                self.pull(link)
                link.is_cut = True
        elif line == "heal":
            for link in self.links:
                link.is_cut = False
        elif line == "refuse":
            self.refusing = True
        elif line == "accept":
            self.refusing = False
        elif line == "quit":
            return False
        print("ok", flush=True)
        return True

    def turn(self):
        with selectors.DefaultSelector() as selector:
            selector.register(sys.stdin.buffer.raw, selectors.EVENT_READ, "stdin")
            selector.register(self.listener, selectors.EVENT_READ, "listener")
            for link in self.links:
                if not link.client_closed:
                    selector.register(link.client, selectors.EVENT_READ)
                if link.is_cut:
                    continue
                if not link.server_closed:
                    events = selectors.EVENT_READ
                    if link.to_server:
                        events |= selectors.EVENT_WRITE
                    selector.register(link.server, events)
            ready = [key.data for key, _ in selector.select(0.05)]
        if "listener" in ready:
            self.accept()
        for link in list(self.links):
            self.pull(link)
            self.push(link)
            if link.is_cut:
                continue
            if link.server_closed or link.client_closed and not link.to_server:
                # Redis answers what it got before it sees the end
                self.close(link)
        if "stdin" in ready:
            data = sys.stdin.buffer.raw.read(1000)
            if not data:
                return False
            self.lines += data
            while b"\n" in self.lines:
                line, self.lines = self.lines.split(b"\n", 1)
                if not self.command(line.decode()):
                    return False
        return True


def main():
    proxy = Proxy(sys.argv[1], sys.argv[2])
    print("ok", flush=True)
    while proxy.turn():
        pass


main()
