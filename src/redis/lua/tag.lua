
-- ======================================================================
-- Free keys and tags: what no rule's template finds again.
--
-- A free key is one that no rule gives: mlcache.set() makes its entry, the
-- relay delivers it, and its guard is an entry's like any other.
--
-- A tag is an index, the sorted set "mlc:tag:<ns>:<what>", whose members are
-- keys and whose scores are the times (ms) at which their entries are gone at
-- the latest; what is "t:<tag>" for a tag, "k:<key>" for all that fetch() has
-- cached under a key, and "f" for the free keys.  Braces in it are escaped, so
-- that no index can be taken for a guard.  Callers name indexes as keys.
--
-- In a Redis Cluster there is one of them for each slot, so that it goes with
-- the slot of its members: "mlc:state:{<number>}tag:<ns>:<what>", where the
-- number is the lowest whose digits are a hash tag for the slot.  A slot that is
-- on its way may have members on one side and their index on the other: what is
-- not here is no sign then that it is not there.
--
-- A key enters its indexes with its lease, not with its entry: then nothing
-- can be filled that an invalidation of the tag has not met.  Indexes never
-- expire, since what can expire can be evicted.  Members that are dead are
-- taken out little by little: by score, and at random where there is none.
--
-- A key's guard tells its tags, too: for who keeps copies elsewhere, and so that
-- a key that is set again has its last tags only.  It is 'G' and four hex digits
-- a tag, a hash of it; 'G' alone says that there is none.  A guard without, of
-- whoever filled without naming any, says nothing of tags.
-- ======================================================================

local MAX_INDEXES = 100
local TRIM = 8				-- members looked at when one comes in
local FOREVER = 'inf'

local function guard_of_member(key)
	local fine, name = pcall(guard_name, key)
	return fine and name or nil
end

-- Takes a member out if it is dead, else says when it will be.
local function look_after(index, key, now)
	local name = guard_of_member(key)
	local left = name and redis.pcall('PTTL', name) or -2
	if type(left) == 'table' then
		return 0				-- on its way
	elseif left ~= -2 then
		redis.call('ZADD', index, left == -1 and FOREVER or now + left, key)
		return 0
	elseif name and type(redis.pcall('EXISTS', key, name)) == 'table' then
		return 0				-- here is one of both sides, it may be on the other
	end
	return redis.call('ZREM', index, key)
end

-- Looks after a few members, but for one.	-> how many went.
local function trim(index, now, count, but)
	local went = 0
	local dead = redis.pcall('ZRANGEBYSCORE', index, '-inf', '(' .. format('%.0f', now), 'LIMIT', 0, count)
	if dead.err then
		return 0				-- the index is on its way
	end
	for _, key in ipairs(dead) do
		went = went + look_after(index, key, now)
	end
	local some = redis.call('ZRANDMEMBER', index, 2, 'WITHSCORES')
	for i = 1, #some, 2 do
		if some[i + 1] == FOREVER and some[i] ~= but then
			went = went + look_after(index, some[i], now)
		end
	end
	return went
end

local TAG_SEED = 116		-- 't', the kind of index

-- The number of the tag whose index it is, nil where it is no tag's: as
-- mlc_l1_tag() in shm/gate.c counts it, and the two must agree.
local function tag_of(index, ns)
	local prefix = ns .. ':t:'
	local rest = match(index, '^mlc:tag:(.*)$') or match(index, '^mlc:state:{%d+}tag:(.*)$')
	if not rest or sub(rest, 1, #prefix) ~= prefix then
		return nil
	end
	local tag = string.gsub(sub(rest, #prefix + 1), '%%(%x%x)', function(code)
		return string.char(tonumber(code, 16))
	end)
	local number = TAG_SEED
	for i = 1, #tag do
		number = (number * 257 + byte(tag, i)) % 65521
	end
	return format('%04x', number)
end

-- What a guard says of tags, when these are its indexes, from the first on; ''
-- where one of them is no tag's.
local function tags_text(indexes, first, ns)
	local text = 'G'
	for i = first, #indexes do
		local number = tag_of(indexes[i], ns)
		if not number then
			return ''
		end
		text = text .. number
	end
	return text
end

-- May a key whose guard says so have the tag?
local function may_have_tag(tags, number)
	for i = 2, #tags, 4 do
		if sub(tags, i, i + 3) == number then
			return true
		end
	end
	return tags == '' or not number
end

-- The indexes of keys from the second on learn of the first.  That comes first,
-- lest the last member of an index goes, which could not be made again while
-- its slot is on its way.
local function enter_indexes(keys, now, life)
	local gone = life == 0 and FOREVER or format('%.0f', now + life)
	for i = 2, #keys do
		redis.call('ZADD', keys[i], 'GT', gone, keys[1])
	end
	for i = 2, #keys do
		trim(keys[i], now, TRIM, keys[1])
	end
end

-- 1 key and its indexes; ns, nonce, version, ttl (ms, 0 = none), payload ->
-- {set, skipped, deleted}, as mlc_apply's op 'r' does; what would need an index
-- that may be evicted is deleted instead.
local function mlc_set(keys, args)
	need_keys(keys, 1, 1 + MAX_INDEXES)
	need_args(args, 5, 5)
	local key = keys[1]
	local name = guard_name(key)
	local current, applied = get_state(args[1])
	if current ~= args[2] then
		return wrong_nonce(args[1])
	end
	local version = need_version('version', args[3])
	local ttl = need_ms('time to live', args[4], 0)
	local now = now_ms()
	local action, guard = decide('r', version, redis.call('MGET', name)[1], applied, now)
	if action == 'set' and evicts_marks(now) then
		action = 'delete'
	end
	if action == 'skip' and guard then
		if guard.lo == version then
			enter_indexes(keys, now, ttl)	-- in a cluster it may have come without
		end
		return {0, 1, 0}
	end
	local plan = new_plan()
	if action == 'set' then
		enter_indexes(keys, now, ttl)
		put(plan, key, args[5], ttl)
		put(plan, name, entry_text(version, version, false, tags_text(keys, 3, args[1])), ttl)
	else
		clear(plan, key, name, guard)
	end
	run(plan)
	return {action == 'set' and 1 or 0, action == 'skip' and 1 or 0, action == 'delete' and 1 or 0}
end

-- 1 key [and the index of free keys]; ns, nonce, version, ttl (ms, 0 = none): the
-- entry, if it is there and older than version, lives so long from now on.
-- -> 1 or 0.  Its other indexes find out when they look after it.
local function mlc_touch(keys, args)
	need_keys(keys, 1, 2)
	need_args(args, 4, 4)
	local key, index = keys[1], keys[2]
	local name = guard_name(key)
	if get_state(args[1]) ~= args[2] then
		return wrong_nonce(args[1])
	end
	local version = need_version('version', args[3])
	local ttl = need_ms('time to live', args[4], 0)
	local guard = parse_guard(redis.call('MGET', name)[1])
	if not guard or guard.lo == '' or guard.absent or not before(guard.lo, version) then
		return 0
	end
	for _, touched in ipairs({key, name}) do
		if ttl > 0 then
			redis.call('PEXPIRE', touched, ttl)
		else
			redis.call('PERSIST', touched)
		end
	end
	if index then
		look_after(index, key, now_ms())
	end
	return 1
end

-- 1 key; ns [, with tags (0/1)] -> {'hit', payload, lo, hi, applied [, tags]},
-- {'miss'} or {'unarmed'}.  Takes no lease: for keys that nobody can load.	 Tags
-- are what the guard says of them.
local function mlc_peek(keys, args)
	need_keys(keys, 1, 1)
	need_args(args, 1, 2)
	local key = keys[1]
	local name = guard_name(key)
	-- Before the state, which is in another slot: Redis 8 looks a key of a slot that
	-- is on its way up in the slot of the command before.
	local found = redis.call('MGET', key, name)
	local nonce, applied = get_state(args[1])
	if not is_armed(args[1], nonce) or not applied then
		return {'unarmed'}
	end
	local guard = found[1] and parse_guard(found[2])
	if not guard or guard.lo == '' or guard.absent then
		return {'miss'}
	end
	return {'hit', found[1], guard.lo, guard.hi, applied,
		args[2] and need_flag('with tags', args[2]) and guard.tags or nil}
end

-- 1 index; ns, cursor, count, version: one step through its members; entries
-- that are older than version go, and leases, but no marks, and nothing that has
-- been set with other tags since.
-- -> {next cursor, members that went}.	 What was filled by who may have seen the
-- version stays: that is what lo says.
local function mlc_untag(keys, args)
	need_keys(keys, 1, 1)
	need_args(args, 4, 4)
	need_name('namespace', args[1])
	local index, version = keys[1], need_version('version', args[4])
	local number = tag_of(index, args[1])
	local count = need_cursor(args[2], args[3])
	local page = redis.call('ZSCAN', index, args[2], 'COUNT', count)
	local members, now, went = page[2], now_ms(), 0
	for i = 1, #members, 2 do
		local key = members[i]
		local name = guard_of_member(key)
		local guard = name and parse_marked_guard(redis.call('MGET', name)[1], now)
		if guard and not may_have_tag(guard.tags, number) then
			redis.call('ZREM', index, key)
		elseif not guard or guard.lo == '' or before(guard.lo, version) then
			if name then
				-- key by key: in a cluster, a command is for one slot
				local plan = new_plan()
				clear(plan, key, name, guard)
				run(plan)
			end
			redis.call('ZREM', index, key)
			went = went + 1
		end
	end
	return {page[1], went}
end

-- 1 key and its indexes; token, lease_ms, ns, ttl (ms, 0 = none) -> as mlc_get,
-- for a key with tags: with a lease it enters the indexes.	 ttl is that of the
-- fill to come.  'unarmed' where the indexes may be evicted.
local function mlc_get_tagged(keys, args)
	need_keys(keys, 2, 1 + MAX_INDEXES)
	need_args(args, 4, 4)
	local key, ns = keys[1], args[3]
	local name = guard_name(key)
	local token = need_token(args[1])
	local lease_ms = need_ms('lease', args[2], 1)
	local ttl = need_ms('time to live', args[4], 0)
	local nonce, applied, applying = get_state(ns)
	local now = now_ms()
	if not is_armed(ns, nonce) or not applied or evicts_marks(now) then
		return {'unarmed'}
	end
	local found = redis.call('MGET', key, name)
	local answer = look(key, name, found[1], found[2], token, lease_ms, nonce, applied, applying,
		nil, function()
			return tags_text(keys, 2, ns)
		end)
	if answer[1] == 'lease' then
		enter_indexes(keys, now, ttl > 0 and lease_ms + ttl or 0)
	end
	return answer
end

-- 0 keys; ns, cursor, count: one step of a scan for indexes, each of which is
-- looked after a little.  -> {next cursor, members that went}.
local function mlc_tidy(keys, args)
	need_keys(keys, 0, 0)
	need_args(args, 3, 3)
	local ns = need_name('namespace', args[1])
	local cursor, indexes = scan(args, (tags[ns] and 'mlc:state:{*}tag:' or 'mlc:tag:') .. ns .. ':*')
	local now, went = now_ms(), 0
	for _, index in ipairs(indexes) do
		went = went + trim(index, now, 10 * TRIM)
	end
	return {cursor, went}
end

-- ---------- tags: an index for each slot ----------

-- The lists of slots that callers have sent; they send the same ones over and
-- over.
local MAX_LISTS = 64
local lists, nlists = {}, 0

local function slots_of(text)
	local list = lists[text]
	if list then
		return list
	end
	if not find(text, '^[%d ]+$') then
		arg_error('slots must be numbers')
	end
	list = {numbers = {}, heads = {}}
	for number in gmatch(text, '%d+') do
		list.numbers[#list.numbers + 1] = number
		list.heads[#list.heads + 1] = 'mlc:state:{' .. number .. '}tag:'
	end
	if nlists == MAX_LISTS then
		lists, nlists = {}, 0
	end
	lists[text] = list
	nlists = nlists + 1
	return list
end

-- Removes a member's entry or lease, unless it is no older than version, or has
-- another tag by now.	-> is it no member any more; is some of it on another node.
local function untag(key, number, version, now)
	local fine, name = pcall(guard_name, key)
	if not fine then
		return true, false
	end
	local text = redis.pcall('GET', name)
	local plain = type(text) == 'string' and text
	local guard = parse_marked_guard(plain, now)
	if guard and not may_have_tag(guard.tags, number) then
		return true, false
	end
	if guard and guard.lo ~= '' and not before(guard.lo, version) then
		return false, false
	end
	-- a command with two keys fails where a slot is on its way and one is not here
	if has_no_marks(plain) and type(redis.pcall('UNLINK', key, name)) ~= 'table' then
		return true, false
	end
	local whole = type(redis.pcall('EXISTS', key, name)) ~= 'table'
	remove(key, name, text, '', now)
	return whole, not whole
end

-- 0 keys; ns, what, version, count, skip, cursor, slots: mlc_untag for the indexes
-- of that name in these slots of this node, which are given by the numbers in
-- the indexes' names, with blanks between.	 A step ends when so many members have
-- been looked at; the next one is to skip so many slots, and begins with cursor.
-- -> {next cursor, members that went, {key...}, slots to skip, {number...}}: the keys
-- are those of which some may be on another node, the numbers those of slots
-- that are not here, or are on their way and have no index here.
local function mlc_untag_slots(keys, args)
	need_keys(keys, 0, 0)
	need_args(args, 7, 7)
	local tail = need_name('namespace', args[1]) .. ':' .. args[2]
	local version = need_version('version', args[3])
	local count, cursor = need_cursor(args[6], args[4]), args[6]
	local list, at = slots_of(args[7]), need_ms('slots to skip', args[5], 0) + 1
	local numbers, heads, call, now = list.numbers, list.heads, redis.pcall, now_ms()
	local tag = tag_of('mlc:tag:' .. tail, args[1])
	local looked, went, elsewhere, missing = 0, 0, {}, {}
	while at <= #numbers and looked < count do
		local index = heads[at] .. tail
		local n = call('EXISTS', index)
		local page = n ~= 0 and type(n) ~= 'table' and
			call('ZSCAN', index, cursor, 'COUNT', count)
		local err = type(n) == 'table' and n.err or page and page.err
		cursor = '0'
		if err then
			-- a user that lacks a right would otherwise look like slots that have left
			if find(err, 'NOPERM', 1, true) or find(err, 'ACL failure', 1, true) or
				find(err, 'user executing the script', 1, true) then
				return redis.error_reply(err)
			end
			if not find(err, 'WRONGTYPE', 1, true) then
				missing[#missing + 1] = numbers[at]
			end
		elseif page then
			local members = page[2]
			for i = 1, #members, 2 do
				local gone, split = untag(members[i], tag, version, now)
				if gone then
					call('ZREM', index, members[i])
					went = went + 1
				elseif split then
					elsewhere[#elsewhere + 1] = members[i]
				end
			end
			looked = looked + #members / 2
			cursor = page[1]
		end
		if cursor == '0' then
			at = at + 1
		end
	end
	return {cursor, went, elsewhere, at - 1, missing}
end

-- 0 keys; ns, what, slots -> how many of these slots have an index of that name, or
-- may have.
local function mlc_indexes(keys, args)
	need_keys(keys, 0, 0)
	need_args(args, 3, 3)
	local tail = need_name('namespace', args[1]) .. ':' .. args[2]
	local found = 0
	for _, head in ipairs(slots_of(args[3]).heads) do
		if redis.pcall('EXISTS', head .. tail) ~= 0 then
			found = found + 1
		end
	end
	return found
end

-- 1 index; key, ttl (ms, 0 = none): enters the key.  For one that is set while its
-- slot is on its way, where index and entry may be on different nodes.
local function mlc_enter(keys, args)
	need_keys(keys, 1, 1)
	need_args(args, 2, 2)
	local ttl = need_ms('time to live', args[2], 0)
	guard_name(args[1])
	return redis.call('ZADD', keys[1], 'GT', ttl == 0 and 'inf' or format('%.0f', now_ms() + ttl), args[1])
end

register('mlc_get_tagged', mlc_get_tagged, 'allow-oom')
register('mlc_tidy', mlc_tidy, 'allow-oom')
register('mlc_set', mlc_set)
register('mlc_untag', mlc_untag, 'allow-oom')
register('mlc_touch', mlc_touch, 'allow-oom')
register('mlc_peek', mlc_peek, 'no-writes')
register('mlc_untag_slots', mlc_untag_slots, 'allow-oom')
register('mlc_indexes', mlc_indexes, 'no-writes')
register('mlc_enter', mlc_enter, 'allow-oom')
