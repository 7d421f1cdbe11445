# listen.py CONNSTR CHANNEL FILE: appends each notification's payload to FILE,
# a line each, until it is killed.  Prints "listening" when it does.
import select
import sys

import psycopg2

connection = psycopg2.connect(sys.argv[1])
connection.autocommit = True
connection.cursor().execute('LISTEN "%s"' % sys.argv[2])
print("listening", flush=True)
with open(sys.argv[3], "a") as out:
    while True:
        select.select([connection], [], [])
        connection.poll()
        while connection.notifies:
            out.write(connection.notifies.pop(0).payload + "\n")
        out.flush()
