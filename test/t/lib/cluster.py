"""A client of a Redis Cluster that looks like redis.Redis to load.py.

Commands go to the master of their key; redirections are followed, and what is
an error in the end is returned as one where a single redis would not give it.
"""
import redis
from redis.cluster import key_slot
from redis.connection import Connection

FOLLOW = 6			# redirections of one command


def key_of(args):
    """The key that says where a command goes; None: any master."""
    if args[0] == "FCALL":
        return args[3] if args[2] > 0 else None
    return args[1] if len(args) > 1 else None


class Cluster:
    def __init__(self, place):
        self.seeds = [tuple(seed.rsplit(":", 1)) for seed in place.split(",")]
        self.connections = {}
        self.owners = {}
        self.masters = []

    def connection(self, address):
        found = self.connections.get(address)
        if found is None:
            found = Connection(host=address[0], port=int(address[1]), socket_timeout=10)
            found.connect()
            self.connections[address] = found
        return found

    def drop(self, address):
        found = self.connections.pop(address, None)
        if found is not None:
            found.disconnect()

    def at(self, address, *args):
        """One command to one node; an error is returned."""
        try:
            connection = self.connection(address)
            connection.send_command(*args)
            return connection.read_response()
        except redis.ResponseError as error:
            return error
        except (redis.RedisError, OSError):
            self.drop(address)
            raise

    def refresh(self):
        last = None
        for address in list(self.masters) + self.seeds:
            try:
                ranges = self.at(address, "CLUSTER", "SLOTS")
            except (redis.RedisError, OSError) as error:
                last = error
                continue
            self.owners = {}
            for item in ranges:
                owner = (item[2][0].decode(), str(item[2][1]))
                for slot in range(item[0], item[1] + 1):
                    self.owners[slot] = owner
            self.masters = sorted(set(self.owners.values()))
            return
        raise last or redis.ConnectionError("no node answers")

    def owner(self, key):
        if not self.owners:
            self.refresh()
        if key is None:
            return self.masters[0]
        found = self.owners.get(key_slot(key.encode()))
        if found is None:
            self.owners = {}
            raise redis.ConnectionError("a slot without a master")
        return found

    def follow(self, key, commands, answer):
        """What a redirection leads to."""
        for _ in range(FOLLOW):
            words = str(answer).split() if isinstance(answer, Exception) else []
            kind = type(answer).__name__
            if kind == "MovedError":
                self.refresh()
                answer = self.run_at(self.owner(key), commands, False)
            elif kind == "AskError" and len(commands) == 1:
                address = tuple(words[-1].rsplit(":", 1))
                answer = self.run_at(address, commands, True)
            else:
                break
        return answer

    def run_at(self, address, commands, asking):
        if asking:
            self.at(address, "ASKING")
        if len(commands) == 1:
            return self.at(address, *commands[0])
        answers = [self.at(address, *command)
                   for command in [("MULTI",)] + commands + [("EXEC",)]]
        moved = [each for each in answers if isinstance(each, Exception)]
        return moved[0] if moved else answers[-1]

    def many(self, groups):
        """groups of commands, each under one key; several make one MULTI."""
        answers = [None] * len(groups)
        by_node = {}
        for number, (key, commands) in enumerate(groups):
            by_node.setdefault(self.owner(key), []).append((number, commands))
        try:
            for address, items in by_node.items():
                connection = self.connection(address)
                packed = []
                for _, commands in items:
                    if len(commands) > 1:
                        commands = [("MULTI",)] + commands + [("EXEC",)]
                    packed += commands
                connection.send_packed_command(connection.pack_commands(packed))
            for address, items in by_node.items():
                connection = self.connection(address)
                for number, commands in items:
                    n = len(commands) + 2 if len(commands) > 1 else 1
                    found = []
                    for _ in range(n):
                        try:
                            found.append(connection.read_response())
                        except redis.ResponseError as error:
                            found.append(error)
                    wrong = [each for each in found if isinstance(each, Exception)]
                    answers[number] = wrong[0] if wrong else found[-1]
        except (redis.RedisError, OSError):
            for address in by_node:
                self.drop(address)
            self.owners = {}
            raise
        for number, (key, commands) in enumerate(groups):
            if isinstance(answers[number], Exception):
                answers[number] = self.follow(key, commands, answers[number])
        return answers

    # ---------- as redis.Redis ----------

    def pipeline(self, transaction=False):
        return Pipeline(self)

    def mget(self, keys):
        return [None if isinstance(answer, Exception) else answer
                for answer in self.many([(key, [("GET", key)]) for key in keys])]

    def scan_iter(self, count):
        self.refresh()
        for address in self.masters:
            cursor = b"0"
            while True:
                cursor, names = self.at(address, "SCAN", cursor, "COUNT", count)
                yield from names
                if cursor == b"0":
                    break


class Pipeline:
    def __init__(self, cluster):
        self.cluster = cluster
        self.commands = []

    def execute_command(self, *args):
        self.commands.append(args)

    def execute(self):
        return self.cluster.many([(key_of(args), [args]) for args in self.commands])
