
-- ======================================================================
-- Redis Cluster: every master is a target of its own, with a state of its own.
--
-- These functions take the keys as arguments, since they may be of several
-- slots of this node.	So Redis does not look whether they are here before
-- the call, and a command on a key that is not here fails inside: while a slot
-- is on its way to another node, each key of it is on either side.
-- ======================================================================

-- 0 keys; ns, tag ('' = none): the state of ns is in the slot of tag from now
-- on.	Known in memory only, like the arming.
local function mlc_place(keys, args)
	need_keys(keys, 0, 0)
	need_args(args, 2, 2)
	local ns, tag = need_name('namespace', args[1]), args[2]
	if tag ~= '' and not find(tag, '^%d+$') then
		arg_error('tag must be a number')
	end
	tags[ns] = tag ~= '' and tag or nil
	return redis.status_reply('OK')
end

-- 0 keys; ns -> the tag, or '' when this process has been told none.
local function mlc_placed(keys, args)
	need_keys(keys, 0, 0)
	need_args(args, 1, 1)
	return tags[need_name('namespace', args[1])] or ''
end

-- 0 keys; ns, nonce, new nonce, tag, sysid, applied: the slot of the state has
-- left this node, or is to.  1 when this very process serves under nonce: then
-- it has missed nothing, and the history goes on under tag, not armed.	 Else 0.
local function mlc_replace(keys, args)
	need_keys(keys, 0, 0)
	need_args(args, 6, 6)
	local ns = need_name('namespace', args[1])
	need_name('nonce', args[2])
	need_name('new nonce', args[3])
	if not find(args[4], '^%d+$') then
		arg_error('tag must be a number')
	end
	need_name('system identifier', args[5])
	need_version('applied', args[6])
	if armed[ns] ~= args[2] then
		return 0
	end
	redis.call('HSET', 'mlc:state:{' .. args[4] .. '}' .. ns, 'nonce', args[3], 'sysid', args[5],
		'applied', args[6], 'applying', args[6])
	tags[ns] = args[4]
	armed[ns] = nil
	return 1
end

-- What is to be of one key, whose guard has been asked for; false when it is
-- not here, or on its way.
local function deliver(key, name, found, op, version, ttl, payload, applied, now)
	if type(found) == 'table' then
		if not find(found.err, 'WRONGTYPE', 1, true) then
			return false
		end
		found = false			-- no guard of ours
	end
	local action, guard, probe = decide(op, version, found, applied, now)
	if action == 'set' and probe then
		local there = redis.pcall('EXISTS', key)
		if there ~= 1 and there ~= 0 then
			return false
		elseif there == 0 then
			action, guard = 'skip', nil		-- evicted, or deleted by hand
		end
	end

	local entry = entry_text(version, version, false)
	local done
	if action == 'set' and ttl == 0 then
		done = redis.pcall('MSET', key, payload, name, entry)
		if done.err then
			-- on the side that receives a slot, only commands with one key
			done = redis.pcall('SET', key, payload)
			done = done.err and done or redis.pcall('SET', name, entry)
		end
	elseif action == 'set' then
		done = redis.pcall('SET', key, payload, 'PX', ttl)
		done = done.err and done or redis.pcall('SET', name, entry, 'PX', ttl)
	elseif guard and guard.standing > 0 then
		done = redis.pcall('UNLINK', key)
		done = type(done) == 'table' and done or leave_marks(name, guard)
	elseif action == 'delete' or not guard then
		done = redis.pcall('UNLINK', key, name)
	end
	return not (type(done) == 'table' and done.err) and action
end

-- 0 keys; ns, nonce, op, ttl (ms, 0 = none), version, or one for each key, then
-- for each key: key, payload -> {set, skipped, deleted, number...}: mlc_apply
-- for keys of several slots, one by one.  The numbers, from 1, are those of keys
-- that are not here.
--
-- As there, the usual case is settled in the loop: newer than what is there, in
-- two commands, or three where the entry must be there.
local function mlc_deliver(keys, args)
	need_keys(keys, 0, 0)
	local n = (#args - 5) / 2
	if n < 1 or n > MAX_KEYS or n % 1 ~= 0 then
		arg_error('expected 5 arguments and 2 for each key, got %d', #args)
	end
	local current, applied = get_state(args[1])
	if current ~= args[2] then
		return wrong_nonce(args[1])
	end
	local op, ttl, versions = need_op(args[3]), need_ms('time to live', args[4], 0), args[5]
	local each = need_versions(versions, n)
	keys = {}
	for i = 1, n do
		keys[i] = args[2 * i + 4]
	end
	local names = guard_names(keys)
	local byte, sub, call = byte, sub, redis.pcall
	local now = now_ms()
	local plain = op ~= 'i' and ttl == 0 and text_sorts
	local set, skipped, deleted, missing = 0, 0, 0, {}
	local version, entry
	for i = 1, n do
		local key, name, payload = keys[i], names[i], args[2 * i + 5]
		local next_version = each and sub(versions, 24 * i - 23, 24 * i) or versions
		if next_version ~= version then
			version = next_version
			entry = entry_text(version, version, false)
		end

		local found = call('GET', name)
		if plain and found and #found == PLAIN_ENTRY_LEN and byte(found) ~= BAR and
			sub(found, 26, 49) < version and (op == 'r' or call('EXISTS', key) == 1) and
			call('MSET', key, payload, name, entry).ok then
			set = set + 1
		else
			local action = deliver(key, name, found, op, version, ttl, payload, applied, now)
			if action == 'set' then
				set = set + 1
			elseif action == 'skip' then
				skipped = skipped + 1
			elseif action == 'delete' then
				deleted = deleted + 1
			else
				missing[#missing + 1] = i
			end
		end
	end
	return {set, skipped, deleted, unpack(missing)}
end

-- Removes what is here of a key whose guard has been asked for.  False: it is
-- not here, or not wholly.
local function remove(key, name, found, owner, now)
	local asked = type(found) ~= 'table' or find(found.err, 'WRONGTYPE', 1, true)
	found = type(found) == 'string' and found
	if asked and has_no_marks(found) and type(redis.pcall('UNLINK', key, name)) ~= 'table' then
		return true
	end
	local guard = parse_marked_guard(found, now)
	local gone = redis.pcall('UNLINK', key)
	if guard then
		end_abandoned_mark(guard, owner)
	end
	leave_marks(name, guard)
	return asked and type(gone) ~= 'table'
end

-- 0 keys; ns, owner or '', key...: mlc_invalidate for whatever of these keys
-- is on this node, be it whole, or its entry or guard alone.
-- -> {0, 0, removed, number...}: the numbers, from 1, are those of keys that
-- are not here, or not wholly.
local function mlc_remove(keys, args)
	need_keys(keys, 0, 0)
	need_args(args, 3, 2 + MAX_KEYS)
	local owner = args[2]
	need_name('namespace', args[1])
	if owner ~= '' then
		need_name('owner', owner)
	end
	local now = now_ms()
	local result = {0, 0, 0}
	for i = 3, #args do
		local name = guard_name(args[i])
		if remove(args[i], name, redis.pcall('GET', name), owner, now) then
			result[3] = result[3] + 1
		else
			result[#result + 1] = i - 2
		end
	end
	return result
end

register('mlc_place', mlc_place, 'allow-oom')
register('mlc_placed', mlc_placed, 'no-writes')
register('mlc_replace', mlc_replace, 'allow-oom')
register('mlc_deliver', mlc_deliver)
register('mlc_remove', mlc_remove, 'allow-oom')
