
-- ======================================================================
-- Locks: what holders outside PostgreSQL see of them.
--
-- A lock's name is a path, "account:42"; whoever holds it holds an intent on
-- each path above it, "account".  Two hashes a name:
--
--	 mlc:lock:<ns>|<name>	  owner -> "mode|deadline|serial|side"
--	 mlc:intent:<ns>|<name>	  "path below|owner" -> the same
--
-- mode is X (exclusive) or S (shared), for an intent x or s.  side is i for
-- PostgreSQL's sessions and o for everybody else.  PostgreSQL's lock manager
-- has settled who comes first among its sessions, so here they never stand in
-- each other's way: one may take over before its predecessor's release is in.
-- serial tells such a late release from one of the present holder.
--
-- In a Redis Cluster the namespace is a hash tag ("{db5}"), so that all of it
-- is in one slot; a key that is given only says which ("mlc:lock:{db5}").
--
-- "mlc:waits:<ns>", owner -> "mode|deadline|since|kind|name", is the wait-for
-- graph.  kind is o (outside), r (a session that PostgreSQL let pass, waiting
-- here) or m (one that waits in PostgreSQL's lock manager).  A wait that would
-- close a cycle is refused: so there never is one.
-- ======================================================================

local CLASH = {X = 'XSxs', S = 'Xx', x = 'XS', s = 'X'}
local INTENT = {X = 'x', S = 's'}

local function need_lock_name(text)
	if #text > 255 or not find(text, '^[^:%c{}]+') or find(text, '[%c{}]') or
		find(text, '::', 1, true) or sub(text, -1) == ':' then
		arg_error('a lock\'s name must be 1 to 255 bytes, without braces, control characters and empty parts')
	end
	return text
end

local function need_mode(text)
	if text ~= 'X' and text ~= 'S' then
		arg_error('mode must be X or S')
	end
	return text
end

local function need_serial(text)
	if text and not find(text, '^%d+$') then
		arg_error('serial must be a number')
	end
	return text or ''
end

-- 'a:b:c' -> {'a', 'a:b'}
local function paths_above(name)
	local paths, at = {}, 0
	while true do
		at = find(name, ':', at + 1, true)
		if not at then
			return paths
		end
		paths[#paths + 1] = sub(name, 1, at - 1)
	end
end

local function lock_key(ns, name)
	return 'mlc:lock:' .. ns .. '|' .. name
end

local function intent_key(ns, name)
	return 'mlc:intent:' .. ns .. '|' .. name
end

local function holder_text(mode, deadline, serial, side)
	return format('%s|%.0f|%s|%s', mode, deadline, serial, side)
end

local function parse_holder(text)
	local mode, deadline, serial, side = match(text, '^([XSxs])|(%d+)|(%d*)|([io])$')
	return mode and {mode = mode, deadline = tonumber(deadline), serial = serial, side = side}
end

-- Keeps a hash until its last deadline.
local function keep_until(key, deadline, now)
	local left = redis.call('PTTL', key)
	if left < deadline - now then
		redis.call('PEXPIRE', key, deadline - now)
	end
end

-- Adds to list those in a hash of holders who are in the way of mode.
local function add_blockers(list, key, mode, owner, inside, now)
	local hash = redis.call('HGETALL', key)
	for i = 1, #hash, 2 do
		local holder = parse_holder(hash[i + 1])
		if not holder or holder.deadline <= now then
			redis.call('HDEL', key, hash[i])
		else
			holder.owner = match(hash[i], '|([^|]*)$') or hash[i]
			if holder.owner ~= owner and find(CLASH[mode], holder.mode, 1, true) and
				not (inside and holder.side == 'i') then
				list[#list + 1] = holder
			end
		end
	end
end

-- Who is in the way of owner's taking name in mode?
local function blockers(ns, name, mode, owner, inside, now)
	local list = {}
	for _, path in ipairs(paths_above(name)) do
		add_blockers(list, lock_key(ns, path), INTENT[mode], owner, inside, now)
	end
	add_blockers(list, lock_key(ns, name), mode, owner, inside, now)
	add_blockers(list, intent_key(ns, name), mode, owner, inside, now)
	return list
end

-- Does nobody hold name, or a path above or below it, nor anybody wait?  One
-- command tells most callers all there is to know.
local function nobody_near(ns, name, above, key, waits)
	if #above == 0 then
		return redis.call('EXISTS', key, intent_key(ns, name), waits) == 0
	end
	local keys = {key, intent_key(ns, name), waits}
	for _, path in ipairs(above) do
		keys[#keys + 1] = lock_key(ns, path)
	end
	return redis.call('EXISTS', unpack(keys)) == 0
end

-- ---------- the wait-for graph ----------

local function read_waits(ns, now)
	local key = 'mlc:waits:' .. ns
	local hash, waits = redis.call('HGETALL', key), {}
	for i = 1, #hash, 2 do
		local mode, deadline, since, kind, name =
			match(hash[i + 1], '^([XS])|(%d+)|(%d+)|([orm])|(.*)$')
		if not mode or tonumber(deadline) <= now then
			redis.call('HDEL', key, hash[i])
		else
			waits[hash[i]] = {mode = mode, since = tonumber(since), kind = kind, name = name}
		end
	end
	return waits
end

-- Would two requests stand in each other's way, on any path of theirs?
local function requests_clash(a, b)
	local modes = {[a.name] = a.mode}
	for _, path in ipairs(paths_above(a.name)) do
		modes[path] = INTENT[a.mode]
	end
	if modes[b.name] and find(CLASH[b.mode], modes[b.name], 1, true) then
		return true
	end
	for _, path in ipairs(paths_above(b.name)) do
		if modes[path] and find(CLASH[INTENT[b.mode]], modes[path], 1, true) then
			return true
		end
	end
	return false
end

-- The owners that a waiter waits for.
local function waits_for(ns, waits, owner, now)
	local wait, found = waits[owner], {}
	for _, holder in ipairs(blockers(ns, wait.name, wait.mode, owner, wait.kind == 'r', now)) do
		found[holder.owner] = true
	end
	if wait.kind == 'm' then
		-- in the lock manager it waits for sessions that came first, also
		-- for those that are no holders yet
		for other, theirs in pairs(waits) do
			if other ~= owner and (theirs.kind == 'r' or
				theirs.kind == 'm' and theirs.since < wait.since) and
				requests_clash(wait, theirs) then
				found[other] = true
			end
		end
	end
	return found
end

-- The cycle that begins and ends with owner, as text, or nil.
local function find_cycle(ns, owner, now)
	local waits, seen = read_waits(ns, now), {}
	local function walk(at, depth)
		seen[at] = true
		for other in pairs(waits_for(ns, waits, at, now)) do
			local rest
			if other == owner then
				rest = ''
			elseif waits[other] and not seen[other] and depth < 200 then
				rest = walk(other, depth + 1)
			end
			if rest then
				return format('%s waits for the %s lock "%s", blocked by %s.%s', at,
					waits[at].mode == 'X' and 'exclusive' or 'shared', waits[at].name, other,
					rest == '' and '' or ' ' .. rest)
			end
		end
	end
	return walk(owner, 0)
end

-- Enters a wait, or prolongs it.  -> text of the cycle that it would close.
local function enter_wait(ns, name, owner, mode, kind, wait, now)
	local key = 'mlc:waits:' .. ns
	local time = redis.call('TIME')
	local since = time[1] * 1000000 + time[2]
	local old = redis.call('HGET', key, owner)
	local known = false
	if old then
		local was = {match(old, '^([XS])|%d+|(%d+)|([orm])|(.*)$')}
		if was[1] == mode and was[4] == name then
			since = tonumber(was[2])
			known = was[3] == kind
		end
	end
	redis.call('HSET', key, owner,
		format('%s|%.0f|%.0f|%s|%s', mode, now + wait, since, kind, name))
	keep_until(key, now + wait, now)
	if known then
		return nil			-- whoever came after has looked
	end
	local cycle = find_cycle(ns, owner, now)
	if cycle then
		redis.call('HDEL', key, owner)
	end
	return cycle
end

-- 0 keys; ns, name, owner, mode (X or S), ttl (ms), wait (ms, 0: do not queue)
-- [, serial: a session of PostgreSQL] ->
--	 {'ok'}				   held until the ttl has passed, or mlc_unlock
--	 {'busy', ms}		   somebody is in the way, at most so long as it looks;
--						   ask again.  With wait, the wait is known for so long
--	 {'deadlock', text}	   waiting would close this cycle; not waiting
-- A holder that asks again holds it anew.
local function mlc_lock(keys, args)
	need_keys(keys, 0, 1)
	need_args(args, 6, 7)
	local ns, owner = need_name('namespace', args[1]), need_name('owner', args[3])
	local name, mode = need_lock_name(args[2]), need_mode(args[4])
	local ttl, wait = need_ms('ttl', args[5], 1), need_ms('wait', args[6], 0)
	local serial, inside = need_serial(args[7]), args[7] ~= nil
	local now = now_ms()

	local above, key, waits = paths_above(name), lock_key(ns, name), 'mlc:waits:' .. ns
	local untouched = nobody_near(ns, name, above, key, waits)
	local list = untouched and {} or blockers(ns, name, mode, owner, inside, now)
	if #list > 0 then
		local cycle = wait > 0 and
			enter_wait(ns, name, owner, mode, inside and 'r' or 'o', wait, now)
		if cycle then
			return {'deadlock', cycle}
		end
		local first = list[1].deadline
		for i = 2, #list do
			first = math.min(first, list[i].deadline)
		end
		return {'busy', first - now}
	end

	local deadline, side = now + ttl, inside and 'i' or 'o'
	for _, path in ipairs(above) do
		local intent = intent_key(ns, path)
		redis.call('HSET', intent, name .. '|' .. owner,
			holder_text(INTENT[mode], deadline, serial, side))
		keep_until(intent, deadline, now)
	end
	redis.call('HSET', key, owner, holder_text(mode, deadline, serial, side))
	if untouched then
		redis.call('PEXPIRE', key, ttl)
	else
		keep_until(key, deadline, now)
		redis.call('HDEL', waits, owner)
	end
	return {'ok'}
end

-- The live record of a holder, or nil.
local function find_holder(ns, name, owner, serial, now)
	local text = redis.call('HGET', lock_key(ns, name), owner)
	local holder = text and parse_holder(text)
	if holder and holder.deadline > now and holder.serial == serial then
		return holder
	end
end

-- 0 keys; ns, name, owner [, serial] -> 1, or 0 when owner does not hold it.
local function mlc_unlock(keys, args)
	need_keys(keys, 0, 1)
	need_args(args, 3, 4)
	local ns, owner = need_name('namespace', args[1]), need_name('owner', args[3])
	local name, serial = need_lock_name(args[2]), need_serial(args[4])
	local holder = find_holder(ns, name, owner, serial, now_ms())
	if not holder then
		return 0
	end
	redis.call('HDEL', lock_key(ns, name), owner)
	for _, path in ipairs(paths_above(name)) do
		redis.call('HDEL', intent_key(ns, path), name .. '|' .. owner)
	end
	return 1
end

-- 0 keys; ns, name, owner, ttl (ms) [, serial] -> 1, or 0 when owner does not
-- hold it any more: it is not given back.
local function mlc_renew(keys, args)
	need_keys(keys, 0, 1)
	need_args(args, 4, 5)
	local ns, owner = need_name('namespace', args[1]), need_name('owner', args[3])
	local name, ttl = need_lock_name(args[2]), need_ms('ttl', args[4], 1)
	local serial, now = need_serial(args[5]), now_ms()
	local holder = find_holder(ns, name, owner, serial, now)
	if not holder then
		return 0
	end
	local deadline = now + ttl
	for _, path in ipairs(paths_above(name)) do
		local key = intent_key(ns, path)
		redis.call('HSET', key, name .. '|' .. owner,
			holder_text(INTENT[holder.mode], deadline, serial, holder.side))
		keep_until(key, deadline, now)
	end
	redis.call('HSET', lock_key(ns, name), owner,
		holder_text(holder.mode, deadline, serial, holder.side))
	keep_until(lock_key(ns, name), deadline, now)
	return 1
end

-- 0 keys; ns, name, owner, mode, wait (ms): a session is about to wait in
-- PostgreSQL's lock manager.  {'ok'} or {'deadlock', text}.
local function mlc_lock_wait(keys, args)
	need_keys(keys, 0, 1)
	need_args(args, 5, 5)
	local ns, owner = need_name('namespace', args[1]), need_name('owner', args[3])
	local name, mode = need_lock_name(args[2]), need_mode(args[4])
	local cycle = enter_wait(ns, name, owner, mode, 'm', need_ms('wait', args[5], 1), now_ms())
	return cycle and {'deadlock', cycle} or {'ok'}
end

-- 0 keys; ns, owner: it waits no more.
local function mlc_lock_nowait(keys, args)
	need_keys(keys, 0, 1)
	need_args(args, 2, 2)
	local ns, owner = need_name('namespace', args[1]), need_name('owner', args[2])
	return redis.call('HDEL', 'mlc:waits:' .. ns, owner)
end

-- 0 keys; ns, name -> {owner, mode, path, ms left, side, ...}: who holds it,
-- and who holds what lies below it.
local function mlc_holders(keys, args)
	need_keys(keys, 0, 1)
	need_args(args, 2, 2)
	local ns, name, now = need_name('namespace', args[1]), need_lock_name(args[2]), now_ms()
	local found = {}
	for _, key in ipairs({lock_key(ns, name), intent_key(ns, name)}) do
		local hash = redis.call('HGETALL', key)
		for i = 1, #hash, 2 do
			local holder = parse_holder(hash[i + 1])
			if holder and holder.deadline > now then
				local path, owner = match(hash[i], '^(.*)|([^|]*)$')
				local n = #found
				found[n + 1] = owner or hash[i]
				found[n + 2] = holder.mode
				found[n + 3] = path or name
				found[n + 4] = holder.deadline - now
				found[n + 5] = holder.side
			end
		end
	end
	return found
end

register('mlc_lock', mlc_lock)
register('mlc_unlock', mlc_unlock, 'allow-oom')
register('mlc_renew', mlc_renew, 'allow-oom')
register('mlc_lock_wait', mlc_lock_wait)
register('mlc_lock_nowait', mlc_lock_nowait, 'allow-oom')
register('mlc_holders', mlc_holders, 'no-writes')
