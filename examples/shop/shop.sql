-- A small shop with the troubles that real systems have. Each procedure is what the shop does behind its API.

CREATE SCHEMA shop;

CREATE TABLE shop.orders (
    id       text PRIMARY KEY,
    merchant text NOT NULL,
    status   text NOT NULL,
    address  text NOT NULL,
    total    numeric(12, 2) NOT NULL,
    refunded numeric(12, 2) NOT NULL DEFAULT 0
);

CREATE TABLE shop.refunds (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    merchant  text NOT NULL,
    order_id  text NOT NULL REFERENCES shop.orders,
    amount    numeric(12, 2) NOT NULL,
    reference text NOT NULL
);

CREATE PROCEDURE shop.note_on_order(order_id text, amount numeric) LANGUAGE sql AS $$
    UPDATE shop.orders SET status = 'refunded', refunded = refunded + amount WHERE id = order_id
$$;

CREATE PROCEDURE shop.note_in_ledger(order_id text, amount numeric, reference text) LANGUAGE sql AS $$
    INSERT INTO shop.refunds (merchant, order_id, amount, reference)
    SELECT merchant, id, amount, reference FROM shop.orders WHERE id = order_id
$$;

-- As it should be: both rows, or none.
CREATE PROCEDURE shop.refund(order_id text, amount numeric, reference text) LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM shop.orders AS o WHERE o.id = order_id AND o.total - o.refunded >= amount) THEN
        RAISE EXCEPTION 'order % does not cover a refund of %', order_id, amount USING ERRCODE = 'check_violation';
    END IF;
    CALL shop.note_on_order(order_id, amount);
    CALL shop.note_in_ledger(order_id, amount, reference);
END
$$;

-- The server goes away after the commit, before its answer: the money is refunded, and nobody is told.
CREATE PROCEDURE shop.refund_and_die(order_id text, amount numeric, reference text) LANGUAGE plpgsql AS $$
BEGIN
    CALL shop.refund(order_id, amount, reference);
    COMMIT;
    PERFORM pg_terminate_backend(pg_backend_pid());
END
$$;

-- Two services behind one answer, and the second one fails unheard.
CREATE PROCEDURE shop.refund_by_half(order_id text, amount numeric, reference text) LANGUAGE plpgsql AS $$
BEGIN
    CALL shop.note_on_order(order_id, amount);
END
$$;

-- A gateway that retries on its own.
CREATE PROCEDURE shop.refund_twice(order_id text, amount numeric, reference text) LANGUAGE plpgsql AS $$
BEGIN
    CALL shop.refund(order_id, amount, reference);
    CALL shop.refund(order_id, amount, reference);
END
$$;

-- "Accepted", into a queue that loses it.
CREATE PROCEDURE shop.refund_never(order_id text, amount numeric, reference text) LANGUAGE plpgsql AS $$
BEGIN
    CALL shop.refund(order_id, amount, reference);
    ROLLBACK;
END
$$;
