"""What people put between PostgreSQL and Redis today, for comparison: reads
wal2json's lines (format version 2) on stdin, and tells Redis in pipelines.

glue.py SOCKET del|set PREFIX [SIZE]

Commands go out when SIZE of them have gathered (1000), or when stdin has
nothing more just now.  Prints "ready" before it reads.
"""
import json
import os
import select
import sys

import redis


def main(socket, what, prefix, size=1000):
    client = redis.Redis(unix_socket_path=socket)
    client.ping()
    pipeline = client.pipeline(transaction=False)
    print('ready', flush=True)
    pending = 0
    rest = b''
    fd = sys.stdin.fileno()
    while True:
        if pending and not select.select([fd], [], [], 0)[0]:
            pipeline.execute()
            pending = 0
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            break
        lines = (rest + chunk).split(b'\n')
        rest = lines.pop()
        for line in lines:
            change = json.loads(line)
            if change['action'] not in ('I', 'U', 'D'):
                continue
            row = {c['name']: c['value'] for c in change.get('columns') or change['identity']}
            key = f"{prefix}{row['id']}"
            if what == 'set' and change['action'] != 'D':
                pipeline.set(key, json.dumps(row, separators=(',', ':')))
            else:
                pipeline.delete(key)
            pending += 1
            if pending >= size:
                pipeline.execute()
                pending = 0
    if pending:
        pipeline.execute()


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
