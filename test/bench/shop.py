"""A shop's product page, a document of five tables: what a cache earns there.

The pages are read and changed by Zipf's law; every change invalidates one.
"""
import os

from harness import QUICK, REPETITIONS, Table, in_turn, pgbench, quantile, wait_for

PRODUCTS = 20_000
CLIENTS = 16
SECONDS = 3 if QUICK else 8
ZIPF = 1.05
MEMCACHED = os.environ.get('MLC_MEMCACHED_SOCKET')

TABLES = """
    CREATE TABLE category (id int PRIMARY KEY, name text NOT NULL);
    CREATE TABLE supplier (id int PRIMARY KEY, name text NOT NULL, country text NOT NULL);
    CREATE TABLE product (id int PRIMARY KEY, category_id int NOT NULL REFERENCES category,
        supplier_id int NOT NULL REFERENCES supplier, name text NOT NULL, price numeric NOT NULL,
        words text NOT NULL) WITH (fillfactor = 70);
    CREATE TABLE stock (product_id int, warehouse int, amount int NOT NULL,
        PRIMARY KEY (product_id, warehouse)) WITH (fillfactor = 70);
    CREATE TABLE review (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, product_id int NOT NULL,
        stars int NOT NULL, words text NOT NULL);
    INSERT INTO category SELECT g, 'category ' || g FROM generate_series(1, 100) g;
    INSERT INTO supplier SELECT g, 'supplier ' || g, 'country ' || g %% 40 FROM generate_series(1, 500) g;
    INSERT INTO product SELECT g, 1 + g %% 100, 1 + g %% 500, 'product ' || g, g %% 97, repeat('words ', 60)
        FROM generate_series(1, %(n)s) g;
    INSERT INTO stock SELECT g, w, 1000 FROM generate_series(1, %(n)s) g, generate_series(1, 5) w;
    INSERT INTO review (product_id, stars, words)
        SELECT g, 1 + r %% 5, repeat('fine ', 10) FROM generate_series(1, %(n)s) g, generate_series(1, 20) r;
    CREATE INDEX ON review (product_id, id DESC);

    CREATE FUNCTION page(wanted int) RETURNS json LANGUAGE plpgsql STABLE AS $$
    BEGIN
        RETURN (SELECT json_build_object('id', p.id, 'name', p.name, 'price', p.price, 'words', p.words,
                'category', c.name, 'supplier', json_build_object('name', s.name, 'country', s.country),
                'stock', (SELECT json_object_agg(warehouse, amount ORDER BY warehouse)
                          FROM public.stock WHERE product_id = p.id),
                'stars', (SELECT json_build_object('mean', round(avg(stars), 2), 'count', count(*))
                          FROM public.review WHERE product_id = p.id),
                'reviews', (SELECT json_agg(json_build_object('stars', stars, 'words', words))
                            FROM (SELECT stars, words FROM public.review WHERE product_id = p.id
                                  ORDER BY id DESC LIMIT 5) r))
            FROM public.product p JOIN public.category c ON c.id = p.category_id
                JOIN public.supplier s ON s.id = p.supplier_id
            WHERE p.id = wanted);
    END $$;
"""

# a page is read, or one of its parts changes; the hot pages lie anywhere
CHOOSE = f'\\set id 1 + permute(random_zipfian(1, {PRODUCTS}, {ZIPF}) - 1, {PRODUCTS})\n'
WRITES = [
    ('UPDATE stock SET amount = amount - 1 WHERE product_id = :id AND warehouse = 1;\n', 3),
    ("INSERT INTO review (product_id, stars, words) VALUES (:id, 4, 'fine');\n", 1),
    ('UPDATE product SET price = price + 1 WHERE id = :id;\n', 1),
]
READS = 95

ROWS = {'page': '', 'product': 'id', 'stock': 'product_id', 'review': 'product_id'}


def attach(db, consistency):
    for table, column in list(ROWS.items())[1:]:
        db.run("SELECT mlcache.attach(%s, key => %s, loader => 'SELECT public.page($1)', "
               "consistency => %s)", table, 'page:{' + column + '}', consistency)
    wait_for(lambda: db.state() == 'armed')
    db.wait_applied()


def detach(db):
    for table in list(ROWS)[1:]:
        db.run("SELECT mlcache.detach(%s)", table)
    # with the last rule goes what it has cached, and the relay
    wait_for(lambda: db.relay_pid() is None)


def memcache_triggers(db, enable):
    for table in list(ROWS)[1:]:
        db.run(f"ALTER TABLE {table} {'ENABLE' if enable else 'DISABLE'} TRIGGER memcache")


def load(db, name, read):
    scripts = [(CHOOSE + read + ';\n', READS)] + [(CHOOSE + text, weight) for text, weight in WRITES]
    return pgbench(db, name, scripts, CLIENTS, SECONDS)


def shop(db, contenders):
    """16 clients, reads and writes; and what was read from where."""
    tables = {what: Table(f'{CLIENTS} clients, {READS} % reads: {what}', unit) for what, unit in (
        ('all', 'transactions/s'), ('read p50', 'ms'), ('read p99', 'ms'), ('write p50', 'ms'),
        ('write p99', 'ms'))}
    ratios = Table('hit ratio', '%')
    for _ in range(REPETITIONS):
        for name in in_turn(contenders):
            read, consistency = contenders[name]
            if consistency:
                attach(db, consistency)
            elif name == 'pgmemcache':
                memcache_triggers(db, True)
            if name != 'no cache':
                db.run(f"SELECT count({read.removeprefix('SELECT ').replace(':id', 'g')}) "
                       f"FROM generate_series(1, {PRODUCTS}) g")
                load(db, 'warm', read)
            db.run("SELECT mlcache.reset_stats()")
            tps, (reads, *writes) = load(db, 'shop', read)
            writes = sorted(sum(writes, []))
            tables['all'].add(name, tps)
            for what, values in ('read', reads), ('write', writes):
                tables[what + ' p50'].add(name, quantile(values, 0.5))
                tables[what + ' p99'].add(name, quantile(values, 0.99))
            if consistency:
                l1, l2, misses = db.row("SELECT sum(hits_l1), sum(hits_l2), sum(misses + bypassed) "
                                        "FROM mlcache.stat_rules WHERE key LIKE 'page:%%'")
                reads = float(l1 + l2 + misses)
                ratios.add(name, 100 * float(l1 + l2) / reads)
                ratios.add(name + ', of L1', 100 * float(l1) / reads)
                detach(db)
            elif name == 'pgmemcache':
                memcache_triggers(db, False)
    tables['all'].print(['no cache'])
    for what in list(tables)[1:]:
        tables[what].print(digits=3)
    ratios.print(digits=2)


def one_read(db, contenders):
    """1 client, one statement: a hit, a miss, and what they save."""
    rates = Table('1 client, one read', 'reads/s')
    attach(db, 'eventual')
    for _ in range(REPETITIONS):
        for name in in_turn(contenders):
            choose = '\\set id random(1, 1000)\n'
            if 'miss' in name:      # each page once
                choose = f'\\set n :n + 1\n\\set id 1 + mod(:n, {PRODUCTS})\n'
                detach(db)
                attach(db, 'eventual')
            for _warm in range(2 if 'hit' in name else 1):
                tps, _took = pgbench(db, 'one', [(choose + contenders[name], 1)], 1, 2)
            rates.add(name, tps)
    detach(db)
    rates.print(['SELECT 1', 'the document'])


def run(db):
    db.run(TABLES % {'n': PRODUCTS})
    db.run("VACUUM ANALYZE")
    size = db.value("SELECT avg(octet_length(page(id)::text)) FROM generate_series(1, 200) id")
    print(f'\nThe working set is {PRODUCTS} pages of {size:.0f} bytes, {PRODUCTS * float(size) / 1e6:.0f} MB; '
          f"L1 has {db.value('SELECT budget FROM mlcache.stat_l1') / 1e6:.0f} MB, Redis has room for all.")
    singles = {
        'SELECT 1': 'SELECT 1;\n',
        'the product by primary key': 'SELECT * FROM product WHERE id = :id;\n',
        'the document': 'SELECT page(:id);\n',
        'get(), hit in L1': "SELECT mlcache.get('page:' || :id);\n",
        'get(), miss': "SELECT mlcache.get('page:' || :id);\n",
    }
    loads = {
        'no cache': ('SELECT page(:id)', None),
        'mlcache, eventual': ("SELECT mlcache.get('page:' || :id)", 'eventual'),
        'mlcache, strong': ("SELECT mlcache.get('page:' || :id)", 'strong'),
    }
    if MEMCACHED:
        # cache-aside in the database, as pgmemcache's manual does it
        db.run("""
            CREATE FUNCTION memcache_page(wanted int) RETURNS text LANGUAGE plpgsql AS $$
            DECLARE
                found text := memcache_get('page:' || wanted);
            BEGIN
                IF found IS NULL THEN
                    found := page(wanted);
                    PERFORM memcache_set('page:' || wanted, found);
                END IF;
                RETURN found;
            END $$;
            CREATE FUNCTION memcache_forget_page() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM memcache_delete('page:' || (to_json(NEW)->>TG_ARGV[0]));
                RETURN NULL;
            END $$""")
        for table, column in list(ROWS.items())[1:]:
            db.run(f"CREATE TRIGGER memcache AFTER INSERT OR UPDATE ON {table} FOR EACH ROW "
                   f"EXECUTE FUNCTION memcache_forget_page('{column}')")
        memcache_triggers(db, False)
        singles['pgmemcache, hit'] = 'SELECT memcache_page(:id);\n'
        loads['pgmemcache'] = ('SELECT memcache_page(:id)', None)
    one_read(db, singles)
    shop(db, loads)
