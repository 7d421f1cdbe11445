"""What the tests of the clients have in common."""
import time

PATIENCE = 30                       # seconds until what must happen counts as failed


def wait_until(condition):
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "waited too long"
        time.sleep(0.005)


class Rows:
    """The session of a test, self.conn, in which rows change."""

    def sql(self, text, *args):
        with self.conn.cursor() as cursor:
            cursor.execute(text, args)
            return cursor.fetchall() if cursor.description else None

    def applied(self):
        """Everything committed so far has reached Redis."""
        version = self.sql("SELECT mlcache.last_commit_version()")[0][0]
        self.assertTrue(self.sql("SELECT mlcache.wait_applied(%s, '30 s')", version)[0][0])
