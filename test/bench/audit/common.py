"""What run.py and clean.py have in common: a session, the cache, progress."""
import os
import sys
import time

import psycopg2
import redis

cache = redis.Redis(unix_socket_path=os.environ['MLC_REDIS_SOCKET'])
db = psycopg2.connect('')
db.autocommit = True


def log(*words):
    print(time.strftime('%H:%M:%S'), *words, file=sys.stderr, flush=True)


def sql(query, *args):
    with db.cursor() as cursor:
        cursor.execute(query, args or None)
        return cursor.fetchall() if cursor.description else None


def wait_applied(patience):
    sql("INSERT INTO fence VALUES (1)")
    version, = sql("SELECT mlcache.last_commit_version()")[0]
    if not sql("SELECT mlcache.wait_applied(%s, %s)", version, patience)[0][0]:
        sys.exit('not applied in time')
