-- A small shop: 50 categories, 2000 products, 5000 orders of three items.
CREATE TABLE category (
	id int PRIMARY KEY,
	name text NOT NULL
);
CREATE TABLE product (
	id int PRIMARY KEY,
	category_id int NOT NULL REFERENCES category,
	name text NOT NULL,
	price numeric(10,2) NOT NULL,
	stock int NOT NULL
);
CREATE INDEX ON product (category_id);
CREATE TABLE orders (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	customer text NOT NULL,
	status text NOT NULL DEFAULT 'open',
	placed_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE order_item (
	order_id bigint REFERENCES orders ON DELETE CASCADE,
	line int,
	product_id int NOT NULL REFERENCES product,
	quantity int NOT NULL,
	price numeric(10,2) NOT NULL,
	PRIMARY KEY (order_id, line)
);

INSERT INTO category SELECT i, 'category ' || i FROM generate_series(1, 50) i;
INSERT INTO product
	SELECT i, 1 + i % 50, 'product "' || i || '" é', 1 + i % 90, 1000
	FROM generate_series(1, 2000) i;
INSERT INTO orders (customer) SELECT 'customer ' || i % 700 FROM generate_series(1, 5000) i;
INSERT INTO order_item
	SELECT o, l, 1 + (o * 7 + l * 31) % 2000, 1 + l, 10 FROM generate_series(1, 5000) o, generate_series(1, 3) l;

-- What a page needs of an order, in one document; NULL when there is no such
-- order.
CREATE FUNCTION order_document(wanted bigint) RETURNS json
LANGUAGE sql STABLE AS $$
	SELECT json_build_object('id', o.id, 'customer', o.customer, 'status', o.status,
			'placed_at', o.placed_at,
			'items', (SELECT json_agg(json_build_object('line', i.line,
							'product', i.product_id, 'quantity', i.quantity, 'price', i.price)
							ORDER BY i.line)
					  FROM order_item i WHERE i.order_id = o.id))
	FROM orders o WHERE o.id = wanted
$$;

-- The products of a category, cheapest first.
CREATE FUNCTION category_list(wanted int) RETURNS json
LANGUAGE sql STABLE AS $$
	SELECT json_agg(json_build_object('id', p.id, 'name', p.name, 'price', p.price)
					ORDER BY p.price, p.id)
	FROM product p WHERE p.category_id = wanted
$$;

VACUUM ANALYZE;
