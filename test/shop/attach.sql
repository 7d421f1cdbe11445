-- One Redis, and what is cached in it.
\set ECHO queries
CREATE EXTENSION mlcache;
\set ECHO none
CREATE SERVER redis FOREIGN DATA WRAPPER mlcache OPTIONS (url :'redis_url', stream '10000');
\set ECHO queries
-- updated in place from WAL, where somebody has read it
SELECT mlcache.attach('pgbench_accounts', key => 'account:{aid}', action => 'update', ttl => '1 hour') AS rule \gset
-- always there once changed, read or not
SELECT mlcache.attach('pgbench_tellers', key => 'teller:{tid}', action => 'replicate') AS rule \gset
-- removed, and read again by whoever needs it
SELECT mlcache.attach('pgbench_branches', key => 'branch:{bid}') AS rule \gset
SELECT mlcache.attach('product', key => 'product:{id}', action => 'update') AS rule \gset
-- a list: a product that moves is in the old and in the new category's
SELECT mlcache.attach('product', key => 'category:{category_id}', loader => 'SELECT category_list($1)') AS rule \gset
-- a document of two tables, reloaded after it was removed
SELECT mlcache.attach('orders', key => 'order:{id}', loader => 'SELECT order_document($1)', action => 'refresh') AS rule \gset
SELECT mlcache.attach('order_item', key => 'order:{order_id}', loader => 'SELECT order_document($1)', action => 'refresh') AS rule \gset
