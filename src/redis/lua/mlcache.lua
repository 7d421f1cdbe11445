#!lua name=mlcache
--
-- The function library "mlcache": what has to happen atomically beside the
-- cached data for the caches to stay coherent with PostgreSQL.
--
-- An entry is a plain string at the user's own key.  Its guard is a second
-- string in the same cluster slot, eight fields joined by '|':
--
--	 lo | hi | floor | flags | token | deadline | nonce | marks
--
-- and is always in one of three states (anything else is no guard at all):
--
--	 entry  lo, hi: the entry's content is no older than lo and no newer than
--			hi.  Flag A: what is cached is that there is no such row, and
--			there is no entry.  G and numbers: its tags, and these are all of
--			them (tag.lua).  Expires with the entry.
--	 lease  token, deadline, nonce: one reader may fill the entry until the
--			deadline, while the namespace is armed with nonce.  No entry.
--			floor: a commit that was visible before the lease was given, and
--			with it all changes of this key up to there.  G: the tags of the
--			entry to be.  Expires with the lease.  With deadline 0 it is none,
--			but what a release leaves behind for the next: the version of its
--			commit.
--	 marks  "owner=deadline,...": committing transactions keep everybody from
--			filling.  No entry.  floor: no payload at or below it may be set
--			by a release.  Flag T (taint): none at all may be.  nonce: there was
--			an entry when the first of the marks came, and the namespace was
--			armed with that; without, no release may make one.  Never expires,
--			since what can expire can be evicted, and a lost mark breaks the
--			promise; mlc_sweep removes what its owner forgot.
--
-- Versions are 24 lower-case hex digits, compared as text.  Deadlines are
-- milliseconds of this server's TIME; 0 means none.
--
-- A namespace is one database of one PostgreSQL cluster.  What has been
-- delivered for it stands in the hash "mlc:state:<ns>"; on a master of a Redis
-- Cluster in "mlc:state:{<tag>}<ns>", whose tag puts it into one of the slots
-- that the master has (cluster.lua).  Whether this very
-- process may serve it stands in "armed", in memory only: it is gone after a
-- restart, a full resynchronization or a promotion, and with it every hit,
-- lease and fill, until the relay has looked and armed the server again.
--
-- Errors begin with a word to tell them by: MLCARG (malformed call; nothing
-- was done), MLCNONCE (not the history the caller believes in), MLCCAS (the
-- caller is not the only relay), MLCNS (say which namespace), MLCEVICT (marks
-- would not be safe here).

-- Thousands count what older callers do not understand.
local VERSION = 3001

local MAX_KEYS = 1000
local MAX_MS = 1000 * 60 * 60 * 24 * 366 * 100

local armed = {}
local tags = {}				-- of state keys, where the relay has said so

-- Bound at the first call: while a library is loaded, Redis shows it nothing
-- but redis.register_function().
local byte, find, format, gmatch, match, sub, concat
local before, text_sorts
local BAR = 124				-- '|'
local LETTER_A = 65
local LETTER_G = 71
local LETTER_M = 109
local PLAIN_ENTRY_LEN = 24 + 1 + 24 + 6
local FLAGS_AT = 24 + 1 + 24 + 2 + 1

-- ---------- arguments ----------

local function arg_error(...)
	error({err = 'MLCARG ' .. format(...)})
end

local function need_args(args, min, max)
	if #args < min or #args > max then
		arg_error('expected %d to %d arguments, got %d', min, max, #args)
	end
end

local function need_keys(keys, min, max)
	if #keys < min or #keys > max then
		arg_error('expected %d to %d keys, got %d', min, max, #keys)
	end
	return #keys
end

local function need_name(what, text)
	if #text > 64 or not find(text, '^[%w_.:{}-]+$') then
		arg_error('%s must be 1 to 64 of 0-9 a-z A-Z _ . : { } -', what)
	end
	return text
end

-- Who is served has been looked at.
local function need_namespace(ns)
	return armed[ns] and ns or need_name('namespace', ns)
end

local function need_token(text)
	if #text > 64 or not find(text, '^[%w_-]+$') then
		arg_error('token must be 1 to 64 of 0-9 a-z A-Z _ -')
	end
	return text
end

local function need_version(what, text)
	if #text ~= 24 or find(text, '[^0-9a-f]') then
		arg_error('%s must be 24 lower-case hex digits', what)
	end
	return text
end

local function need_ms(what, text, min)
	local number = find(text, '^%d+$') and #text <= 15 and tonumber(text)
	if not number or number < min or number > MAX_MS then
		arg_error('%s must be a number of milliseconds from %d on', what, min)
	end
	return number
end

local function need_flag(what, text)
	if text ~= '0' and text ~= '1' then
		arg_error('%s must be 0 or 1', what)
	end
	return text == '1'
end

-- ---------- versions ----------

-- Lua compares text with strcoll(), and Redis takes LC_COLLATE from its
-- environment: in Danish, "aa" sorts behind "z".  Where the locale cannot sort
-- hex digits, compare numbers of 8 digits, which are exact.
local function locale_sorts_hex()
	local digits, last = '0123456789abcdef', ''
	for i = 1, 16 do
		for j = 1, 16 do
			local pair = sub(digits, i, i) .. sub(digits, j, j)
			if not (last < pair) then
				return false
			end
			last = pair
		end
	end
	return true
end

local function before_as_text(a, b)
	return a < b
end

local function before_as_numbers(a, b)
	for i = 1, 17, 8 do
		local x, y = tonumber(sub(a, i, i + 7), 16), tonumber(sub(b, i, i + 7), 16)
		if x ~= y then
			return x < y
		end
	end
	return false
end

local function latest(a, b)
	return (a == '' or b ~= '' and before(a, b)) and b or a
end

-- ---------- names ----------

-- As mlc_key_guard() in model/key.h.  Keys whose guard would be in another
-- slot, or would be that of another key, are refused.
local function guard_name(key)
	if byte(key) == LETTER_M and sub(key, 1, 4) == 'mlc:' then
		arg_error('a key must not begin with "mlc:"')
	end
	if not find(key, '}', 1, true) then
		if key == '' then
			arg_error('a key must not be empty')
		end
		return 'mlc:{' .. key .. '}'
	end
	local brace = find(key, '{', 1, true)
	local close = brace and find(key, '}', brace, true)
	if not close or close == brace + 1 then
		arg_error('a key with "}" must have a hash tag')
	end
	if brace == 1 and close == #key then
		arg_error('a key must not be a hash tag as a whole')
	end
	if find(key, '^state:') then
		arg_error('a key with a hash tag must not begin with "state:"')
	end
	return 'mlc:' .. key
end

-- The reverse; nil for what is no guard's name.
local function key_of_guard(name)
	local key = match(name, '^mlc:{([^}]+)}$')
	if key then
		return key
	end
	key = match(name, '^mlc:(.*{[^}]+}.*)$')
	return key and not find(key, '^state:') and not find(key, '^mlc:') and key or nil
end

-- Where a copy is kept that was removed, for those who may have it stale: in the
-- slot of the key, and no guard's name, since no key begins with "mlc:".
local function kept_name(name)
	return 'mlc:' .. name
end

local function is_entry(text)
	return text and byte(text) ~= BAR and
		(#text == PLAIN_ENTRY_LEN or byte(text, FLAGS_AT) == LETTER_G)
end

-- Looking at all keys in one string first spares most keys a look of their own.
local function guard_names(keys)
	if #keys == 1 then
		return {guard_name(keys[1])}
	end
	local names = {}
	local all = '\n' .. concat(keys, '\n') .. '\n'
	if find(all, '{', 1, true) or find(all, '}', 1, true) or
		find(all, '\nmlc:', 1, true) or find(all, '\n\n', 1, true) then
		for i = 1, #keys do
			names[i] = guard_name(keys[i])
		end
	else
		for i = 1, #keys do
			names[i] = 'mlc:{' .. keys[i] .. '}'
		end
	end
	return names
end

local function state_key(ns)
	local tag = tags[need_name('namespace', ns)]
	return tag and 'mlc:state:{' .. tag .. '}' .. ns or 'mlc:state:' .. ns
end

-- ---------- guards ----------

local function now_ms()
	local time = redis.call('TIME')
	return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function parse_guard(text)
	if not text then
		return nil
	end
	local lo, hi, floor, flags, tags, token, deadline, nonce, marks = match(text,
		'^([0-9a-f]*)|([0-9a-f]*)|([0-9a-f]*)|([AT]*)(G?[0-9a-f]*)|([^|]*)|(%d*)|([^|]*)|([^|]*)$')
	if not lo or #lo % 24 ~= 0 or #lo > 24 or #hi ~= #lo or
		#floor % 24 ~= 0 or #floor > 24 or tags ~= '' and byte(tags) ~= LETTER_G then
		return nil		-- not of our making: must not get in anybody's way
	end
	local guard = {
		lo = lo, hi = hi, floor = floor, tags = tags, token = token, nonce = nonce,
		absent = find(flags, 'A', 1, true) ~= nil,
		taint = find(flags, 'T', 1, true) ~= nil,
		deadline = tonumber(deadline) or 0,
		marks = {}, standing = 0
	}
	for owner, limit in gmatch(marks, '([^=,]+)=(%d+)') do
		guard.marks[owner] = tonumber(limit)
		guard.standing = guard.standing + 1
	end
	return guard
end

-- Marks whose deadline has passed end, and taint what they leave behind.
local function end_overdue(guard, now)
	local overdue = 0
	for owner, limit in pairs(guard.marks) do
		if limit ~= 0 and limit <= now then
			guard.marks[owner] = nil
			overdue = overdue + 1
		end
	end
	if overdue > 0 then
		guard.standing = guard.standing - overdue
		guard.taint = true
	end
	return overdue
end

local function parse_marked_guard(text, now)
	local guard = parse_guard(text)
	if guard and guard.standing > 0 then
		end_overdue(guard, now)
	end
	return guard
end

-- Takes owner's mark away; did it stand?
local function end_mark(guard, owner)
	if not guard.marks[owner] then
		return false
	end
	guard.marks[owner] = nil
	guard.standing = guard.standing - 1
	return true
end

-- What is done about the marks that stay depends on what is known of a commit
-- that is over.	Its version: no release of theirs may set what is older.
-- That it was none: nothing.	 Not even that, since its owner or its deadline is
-- all there is to go by: no release of theirs may set anything.
local function raise_floor(guard, version)
	guard.floor = latest(guard.floor, version)
end

local function end_abandoned_mark(guard, owner)
	if end_mark(guard, owner) then
		guard.taint = true
	end
end

local function marks_text(guard)
	local list = {}
	for owner, limit in pairs(guard.marks) do
		list[#list + 1] = format('%s=%.0f', owner, limit)
	end
	return '||' .. guard.floor .. '|' .. (guard.taint and 'T' or '') .. '|||' ..
		guard.nonce .. '|' .. concat(list, ',')
end

-- Most guards carry no mark, or the caller's only, and need not be parsed.
local function has_no_marks(text)
	return not text or byte(text, -1) == BAR
end

-- Of a guard only marks stay.  One command a key: in a cluster, it may be here
-- without its entry, or not at all.
local function leave_marks(name, guard)
	if guard and guard.standing > 0 then
		return redis.pcall('SET', name, marks_text(guard))
	end
	return redis.pcall('UNLINK', name)
end

local NO_MARKS = {floor = '', taint = false, nonce = '', standing = 0}

local function only_mark_text(owner, limit, nonce)
	return '||||||' .. (nonce or '') .. '|' .. owner .. '=' .. limit
end

-- The relay will invalidate the key for this commit, too, and has no need to
-- once somebody has filled after the release: that saves a hot key from being
-- loaded twice.  It has come by when this expires, or does more than it must.
local RELEASED_MS = '10000'		-- as text: to make it of a number takes longer
local RELEASED_TAIL = '||released|0||'

local function released_text(version)
	return '||' .. version .. RELEASED_TAIL
end

-- Is what such a guard or an entry's tells no older?  Others are to be parsed.
local function is_plainly_no_older(text, version)
	if not text then
		return false
	end
	if sub(text, 27) == RELEASED_TAIL then
		return not before(sub(text, 3, 26), version)
	end
	return is_entry(text) and not before(sub(text, 1, 24), version)
end

-- A guard gets another text; -> the one before, false where there was none.
local function exchange(name, text, ...)
	local old = redis.pcall('SET', name, text, 'GET', ...)
	if type(old) ~= 'table' then
		return old
	end
	redis.call('UNLINK', name)		-- not of our making
	redis.call('SET', name, text, ...)
	return false
end

local function entry_text(lo, hi, absent, tags)
	return lo .. '|' .. hi .. '||' .. (absent and 'A' or '') .. (tags or '') .. '||||'
end

-- ---------- writing many keys at once ----------

-- Collects writes; run() sends one UNLINK, one MSET, and a SET for each string
-- with a time to live.  No key may be both dropped and put.
local function new_plan()
	return {drops = {}, puts = {}, timed = {}}
end

local function drop(plan, key)
	local drops = plan.drops
	drops[#drops + 1] = key
end

local function put(plan, key, value, ttl)
	if ttl == 0 then
		local puts = plan.puts
		local n = #puts
		puts[n + 1] = key
		puts[n + 2] = value
	else
		local timed = plan.timed
		local n = #timed
		timed[n + 1] = key
		timed[n + 2] = value
		timed[n + 3] = ttl
	end
end

local function run(plan)
	local drops, puts, timed = plan.drops, plan.puts, plan.timed
	if #drops > 0 then
		redis.call('UNLINK', unpack(drops))
	end
	if #puts > 0 then
		redis.call('MSET', unpack(puts))
	end
	for i = 1, #timed, 3 do
		redis.call('SET', timed[i], timed[i + 1], 'PX', timed[i + 2])
	end
end

-- The entry goes and so does the lease; of the guard only marks stay.
local function clear(plan, key, name, guard)
	drop(plan, key)
	if guard and guard.standing > 0 then
		put(plan, name, marks_text(guard), 0)
	else
		drop(plan, name)
	end
end

-- ---------- the state of a namespace ----------

-- nonce, applied, applying; false for what is missing, as it is when the slot
-- of the state has left this node of a cluster.
local function get_state(ns)
	local state = redis.pcall('HMGET', state_key(ns), 'nonce', 'applied', 'applying')
	if state.err then
		return false, false, false
	end
	return state[1], state[2], state[3]
end

local function is_armed(ns, nonce)
	return nonce and armed[ns] == nonce
end

-- The only namespace that is armed here, or nil.  One that was forgotten
-- without being disarmed does not count.
local function default_namespace()
	local first = next(armed)
	if not first or not next(armed, first) then
		return first
	end
	local found
	for ns in pairs(armed) do
		if is_armed(ns, (get_state(ns))) then
			if found then
				error({err = 'MLCNS several namespaces are armed here: name one'})
			end
			found = ns
		end
	end
	return found
end

local function wrong_nonce(ns)
	return redis.error_reply('MLCNONCE not the current nonce of namespace ' .. ns)
end

-- 0 keys; ns -> {sysid, applied, applying, nonce, armed}; '' for what is
-- missing; armed is 1 when this process serves hits, leases and fills.
local function mlc_state(keys, args)
	need_keys(keys, 0, 0)
	need_args(args, 1, 1)
	local state = redis.pcall('HMGET', state_key(args[1]), 'sysid', 'applied', 'applying', 'nonce')
	if state.err then
		state = {}
	end
	local serves = is_armed(args[1], state[4]) and state[2]
	for i = 1, 4 do
		state[i] = state[i] or ''
	end
	state[5] = serves and 1 or 0
	return state
end

-- 0 keys; ns, nonce, sysid: serves no more; what was delivered is forgotten.
local function mlc_disarm(keys, args)
	need_keys(keys, 0, 0)
	need_args(args, 3, 3)
	local key = state_key(args[1])
	need_name('nonce', args[2])
	need_name('system identifier', args[3])
	armed[args[1]] = nil
	redis.call('HSET', key, 'nonce', args[2], 'sysid', args[3])
	redis.call('HDEL', key, 'applied', 'applying')
	return redis.status_reply('OK')
end

-- 0 keys; ns, nonce, sysid, applied: a new history begins at applied.  Does
-- not arm.
local function mlc_begin(keys, args)
	need_keys(keys, 0, 0)
	need_args(args, 4, 4)
	local key = state_key(args[1])
	need_name('nonce', args[2])
	need_name('system identifier', args[3])
	need_version('applied', args[4])
	armed[args[1]] = nil
	redis.call('HSET', key, 'nonce', args[2], 'sysid', args[3], 'applied', args[4],
		'applying', args[4])
	return redis.status_reply('OK')
end

-- 0 keys; ns, only, template...: what keys the rules give that have entries
-- here, for a relay that knows of a rule no more.  Adds these; only 1: forgets
-- all others.  -> those that were known.
local function mlc_templates(keys, args)
	need_keys(keys, 0, 0)
	need_args(args, 2, 1000000)
	local key = state_key(args[1])
	need_flag('only', args[2])
	local fields = redis.pcall('HGETALL', key)
	local known = {}
	if fields.err then
		return known				-- the slot of the state has left
	end
	for i = 1, #fields, 2 do
		if sub(fields[i], 1, 9) == 'template ' then
			known[#known + 1] = sub(fields[i], 10)
			if args[2] == '1' then
				redis.call('HDEL', key, fields[i])
			end
		end
	end
	for i = 3, #args do
		redis.call('HSET', key, 'template ' .. args[i], '')
	end
	return known
end

-- 0 keys; ns, owner: a strong writer who changes more than he can name serves
-- nobody, until the relay has noticed, delivered, and armed the server again.
local function mlc_close(keys, args)
	need_keys(keys, 0, 0)
	need_args(args, 2, 2)
	local key = state_key(args[1])
	need_name('owner', args[2])
	armed[args[1]] = nil
	-- an arming under way must not undo it
	if redis.pcall('EXISTS', key) == 1 then
		redis.call('HSET', key, 'nonce', 'closed-' .. args[2])
	end
	return redis.status_reply('OK')
end

-- 0 keys; ns, nonce: this process serves from now on.
local function mlc_arm(keys, args)
	need_keys(keys, 0, 0)
	need_args(args, 2, 2)
	local nonce, applied = get_state(args[1])
	if nonce ~= need_name('nonce', args[2]) then
		return wrong_nonce(args[1])
	end
	if not applied then
		return redis.error_reply('MLCNONCE nothing has been applied in namespace ' .. args[1])
	end
	armed[args[1]] = nonce
	return redis.status_reply('OK')
end

-- 0 keys; ns -> the nonce that this process is armed with, '' if it is not.
-- Who looks at entries and guards with plain commands asks for it in the same
-- MULTI and compares it with the state's; applied must be there, too.  Writes
-- nothing, but a replica must refuse it.  Every read comes by here, so that is
-- all it does.
local function mlc_armed(keys, args)
	return armed[args[1]] or ''
end

-- 0 keys; ns, old nonce, new nonce: another relay goes on with an armed
-- server; its predecessor's late commands and all leases die.  1, or 0 when
-- the server is not armed with the old one (nothing changes).
local function mlc_adopt(keys, args)
	need_keys(keys, 0, 0)
	need_args(args, 3, 3)
	local nonce = get_state(args[1])
	need_name('old nonce', args[2])
	need_name('new nonce', args[3])
	if nonce ~= args[2] or not is_armed(args[1], nonce) then
		return 0
	end
	redis.call('HSET', state_key(args[1]), 'nonce', args[3])
	armed[args[1]] = args[3]
	return 1
end

-- 0 keys; ns, nonce, expected applying, applied, applying: compare and set.
-- 1 when armed, 0 when not.
local function mlc_publish(keys, args)
	need_keys(keys, 0, 0)
	need_args(args, 5, 5)
	local ns = args[1]
	local nonce, applied, applying = get_state(ns)
	need_name('nonce', args[2])
	need_version('expected applying', args[3])
	need_version('applied', args[4])
	need_version('applying', args[5])
	if before(args[5], args[4]) then
		arg_error('applying must not be before applied')
	end
	if nonce ~= args[2] then
		return wrong_nonce(ns)
	end
	if not applied or applying ~= args[3] then
		return redis.error_reply('MLCCAS applying is ' .. (applying or 'missing'))
	end
	if before(args[4], applied) or before(args[5], applying) then
		return redis.error_reply('MLCCAS applied and applying must not decrease')
	end
	redis.call('HSET', state_key(ns), 'applied', args[4], 'applying', args[5])
	return is_armed(ns, nonce) and 1 or 0
end

-- ---------- delivering ----------

-- What becomes of an entry ('set', 'skip' or 'delete'), what its guard is to
-- be if it is not set (nil: none), and whether it must be there to be set.
local function decide(op, version, text, applied, now)
	local guard = parse_marked_guard(text, now)
	if guard and guard.standing > 0 then
		raise_floor(guard, version)		-- marks are their owners', or the sweep's
		return 'delete', guard
	elseif op == 'i' then
		return 'delete'
	elseif not guard or guard.lo == '' then
		-- nothing that anybody vouches for; an old event must not revive it
		if op == 'r' and applied and before(applied, version) then
			return 'set'
		end
		return 'skip'
	elseif not before(guard.lo, version) then
		return 'skip', guard
	elseif before(guard.hi, version) then
		return 'set', nil, op == 'u' and not guard.absent
	end
	return 'delete'			-- nobody knows whether the fill saw it
end

local function need_op(op)
	if op ~= 'u' and op ~= 'r' and op ~= 'i' then
		arg_error('op must be u, r or i')
	end
	return op
end

-- One version for n keys, or one after the other, in one text.  -> is it that?
local function need_versions(text, n)
	if #text ~= 24 and #text ~= 24 * n or not find(text, '^[0-9a-f]*$') then
		arg_error('expected one version of 24 lower-case hex digits, or one for each key')
	end
	return #text > 24
end

local function need_distinct(keys)
	local seen = {}
	for i = 1, #keys do
		if seen[keys[i]] then
			arg_error('a key must not be given twice')
		end
		seen[keys[i]] = true
	end
end

-- Takes the groups (entry, payload, guard, its text) whose entry is gone out of
-- a list, and drops their guards.	-> how many.
local function leave_out(list, gone, plan)
	local n, kept, out = #list, 0, 0
	for i = 1, n, 4 do
		if gone[list[i]] then
			drop(plan, list[i + 2])
			out = out + 1
		else
			for j = 1, 4 do
				list[kept + j] = list[i + j - 1]
			end
			kept = kept + 4
		end
	end
	for i = kept + 1, n do
		list[i] = nil
	end
	return out
end

-- n keys; ns, nonce, op, ttl (ms, 0 = none), versions, then for each key:
-- payload -> {set, skipped, deleted}.  Versions are one for all, or one after the
-- other, in one text.
--
-- op is 'i' (invalidate), 'u' (update: never creates) or 'r' (replicate:
-- creates).	Does not ask for arming: the relay delivers before it arms.
--
-- This is where the relay spends its time, so: one read of all guards, one
-- look whether the entries are there, one write of all that is accepted, a loop
-- that settles the usual case, an update newer than the entry, itself, and few
-- arguments, since each costs more than what is done with it.
local function mlc_apply(keys, args)
	local n = need_keys(keys, 1, MAX_KEYS)
	need_args(args, 5 + n, 5 + n)
	local current, applied = get_state(args[1])
	if current ~= args[2] then
		return wrong_nonce(args[1])
	end
	local op, ttl, versions = need_op(args[3]), need_ms('time to live', args[4], 0), args[5]
	local each = need_versions(versions, n)

	local byte, sub = byte, sub
	local names = guard_names(keys)
	local texts = redis.call('MGET', unpack(names))
	local plan = new_plan()
	local sets, nsets = {}, 0			-- entry, payload, guard, its text
	local probes, nprobes = {}, 0		-- entries that must be there
	local plain, update = text_sorts and op ~= 'i', op == 'u'
	local ascending = true
	local version, entry
	local skipped, deleted = 0, 0
	local now

	for i = 1, n do
		local key, text = keys[i], texts[i]
		local next_version = each and sub(versions, 24 * i - 23, 24 * i) or versions
		if next_version ~= version then
			ascending = ascending and not (version and before(next_version, version))
			version = next_version
			entry = version .. '|' .. version .. '||||||'
		end

		local action, guard, probe = 'set', nil, update
		if not (plain and text and #text == PLAIN_ENTRY_LEN and byte(text) ~= BAR and
			sub(text, 26, 49) < version) then
			now = now or now_ms()
			action, guard, probe = decide(op, version, text, applied, now)
		end

		if action == 'set' then
			if probe then
				nprobes = nprobes + 1
				probes[nprobes] = key
			end
			sets[nsets + 1] = key
			sets[nsets + 2] = args[5 + i]
			sets[nsets + 3] = names[i]
			sets[nsets + 4] = entry
			nsets = nsets + 4
		elseif action == 'delete' then
			deleted = deleted + 1
			clear(plan, key, names[i], guard)
		else
			skipped = skipped + 1
			if not guard then
				clear(plan, key, names[i], nil)
			end
		end
	end

	-- Writes go out sorted by kind: then the order of two for one key is lost.
	if not ascending or #plan.puts > 0 or #plan.drops > 0 and nsets > 0 then
		need_distinct(keys)
	end
	-- An entry can be gone (evicted, deleted by hand) while its guard stays:
	-- an update must not bring it back.
	if nprobes > 0 and redis.call('EXISTS', unpack(probes)) < nprobes then
		local gone = {}
		for i = 1, nprobes do
			gone[probes[i]] = redis.call('EXISTS', probes[i]) == 0
		end
		skipped = skipped + leave_out(sets, gone, plan)
	end

	run(plan)
	if ttl == 0 and #sets > 0 then
		redis.call('MSET', unpack(sets))
	elseif ttl > 0 then
		for i = 1, #sets, 2 do
			redis.call('SET', sets[i], sets[i + 1], 'PX', ttl)
		end
	end
	return {n - skipped - deleted, skipped, deleted}
end

-- n keys; ns, owner or '' [, for each key: version]: entries and leases go, and
-- owner's marks, who is gone; other owners' marks stay.  With a version, what is
-- known to be no older stays, and no floor is raised: of these keys every commit
-- leaves a mark, and raises it when that ends.	 -> number of keys.
local function mlc_invalidate(keys, args)
	local n = need_keys(keys, 1, MAX_KEYS)
	need_args(args, 2, 2 + n)
	local owner = args[2]
	need_name('namespace', args[1])
	local versions = #args > 2
	if versions and #args < 2 + n then
		arg_error('expected a version for each key')
	end
	for i = 3, #args do
		if #args[i] ~= 24 then
			need_version('version', args[i])
		end
	end
	if versions and find(concat(args, '', 3), '[^0-9a-f]') then
		arg_error('version must be 24 lower-case hex digits')
	end
	if owner ~= '' then
		need_name('owner', owner)
	end
	local names = guard_names(keys)
	local texts = redis.call('MGET', unpack(names))
	local now
	local plan = new_plan()
	for i = 1, n do
		local guard, stays
		if versions and is_plainly_no_older(texts[i], args[2 + i]) then
			stays = true
		elseif not has_no_marks(texts[i]) then
			now = now or now_ms()
			guard = parse_marked_guard(texts[i], now)
			if guard then
				end_abandoned_mark(guard, owner)
			end
		elseif versions and texts[i] then
			guard = parse_guard(texts[i])
			stays = guard and not before(latest(guard.lo, guard.floor), args[2 + i])
		end
		if not stays then
			clear(plan, keys[i], names[i], guard)
		end
	end
	run(plan)
	return n
end

-- n keys; ns, then for each key: ms -> how many were cached.  What is cached is
-- kept for so long, under another name, for readers that may have it while
-- somebody else loads: before it is removed.
local function mlc_keep(keys, args)
	local n = need_keys(keys, 1, MAX_KEYS)
	need_args(args, 1 + n, 1 + n)
	need_name('namespace', args[1])
	local names = guard_names(keys)
	local payloads = redis.call('MGET', unpack(keys))
	local texts = redis.call('MGET', unpack(names))
	local plan = new_plan()
	local kept = 0
	for i = 1, n do
		local ms = need_ms('time', args[1 + i], 1)
		if payloads[i] and is_entry(texts[i]) then
			put(plan, kept_name(names[i]), payloads[i], ms)
			kept = kept + 1
		end
	end
	run(plan)
	return kept
end

-- ---------- reading ----------

-- What a reader is told of one key, whose entry and guard have been read.  With a
-- lease, its guard says of tags what tags() returns.
local function look(key, name, payload, text, token, lease_ms, nonce, applied, applying, stale,
	tags)
	if payload and is_entry(text) then
		return {'hit', payload, sub(text, 1, 24), sub(text, 26, 49), applied}
	end

	local guard = parse_guard(text)
	if payload then
		redis.call('UNLINK', key)		-- no guard vouches for it
	elseif guard and guard.absent then
		return {'absent', guard.lo, guard.hi, applied}
	end
	local now = now_ms()
	if guard and guard.standing > 0 then
		if end_overdue(guard, now) > 0 and guard.standing > 0 then
			redis.call('SET', name, marks_text(guard))
		end
		if guard.standing > 0 then
			return {'quarantined'}
		end
	end
	if guard and guard.nonce == nonce and guard.token ~= token and guard.deadline > now then
		return {'busy', guard.deadline - now,
			stale and redis.call('MGET', kept_name(name))[1] or nil}
	end
	local floor = guard and not guard.taint and guard.floor or ''
	redis.call('SET', name, format('||%s|%s|%s|%.0f|%s|', floor, tags and tags() or '', token,
		now + lease_ms, nonce), 'PX', lease_ms)
	return {'lease', applied, applying}
end

-- 1 key; token, lease_ms [, ns [, stale (0/1)]] ->
--	 {'hit', payload, lo, hi, applied}
--	 {'absent', lo, hi, applied}	   cached: there is no such row
--	 {'lease', applied, applying}	   load the row in a new snapshot, mlc_fill
--	 {'busy', ms [, payload]}		   somebody else loads; at most so long.  With
--									   stale: what was removed a short while ago
--	 {'quarantined'}				   load the row, do not fill
--	 {'unarmed'}					   the same
-- The holder of a lease that asks again is given it again.
local function mlc_get(keys, args)
	need_keys(keys, 1, 1)
	need_args(args, 2, 4)
	local key = keys[1]
	local name = guard_name(key)
	local token = need_token(args[1])
	local lease_ms = need_ms('lease', args[2], 1)
	local stale = args[4] and need_flag('stale', args[4])
	local ns = args[3] or default_namespace()
	if not ns then
		return {'unarmed'}
	end
	local nonce, applied, applying = get_state(ns)
	if not is_armed(ns, nonce) or not applied then
		return {'unarmed'}
	end
	local found = redis.call('MGET', key, name)
	return look(key, name, found[1], found[2], token, lease_ms, nonce, applied, applying, stale)
end

-- n keys; token, lease_ms, ns [, stale] -> an array of what mlc_get answers for each.
local function mlc_mget(keys, args)
	local n = need_keys(keys, 1, MAX_KEYS)
	need_args(args, 3, 4)
	local names = guard_names(keys)
	local token = need_token(args[1])
	local lease_ms = need_ms('lease', args[2], 1)
	local stale = args[4] and need_flag('stale', args[4])
	local nonce, applied, applying = get_state(args[3])
	local serves = is_armed(args[3], nonce) and applied
	local answers = {}
	if not serves then
		for i = 1, n do
			answers[i] = {'unarmed'}
		end
		return answers
	end
	local payloads = redis.call('MGET', unpack(keys))
	local texts = redis.call('MGET', unpack(names))
	for i = 1, n do
		answers[i] = look(keys[i], names[i], payloads[i], texts[i], token, lease_ms,
			nonce, applied, applying, stale)
	end
	return answers
end

-- 1 key; token, payload, ttl (ms, 0 = none), lo, hi, absent (0/1) [, ns] ->
-- 'ok' or 'refused'.  lo is the applied that came with the lease, hi the
-- insert position read after the loader's snapshot was taken.  With absent
-- the payload is ignored.
local function mlc_fill(keys, args)
	need_keys(keys, 1, 1)
	need_args(args, 6, 7)
	local key = keys[1]
	local name = guard_name(key)
	local token, payload = need_token(args[1]), args[2]
	local ttl = need_ms('time to live', args[3], 0)
	local lo, hi = need_version('lo', args[4]), need_version('hi', args[5])
	local absent = need_flag('absent', args[6])
	local ns = args[7] or default_namespace()
	if not ns then
		return 'refused'
	end
	local nonce, applied = get_state(ns)
	if not is_armed(ns, nonce) or not applied then
		return 'refused'
	end
	if before(applied, lo) then
		arg_error('lo must be what mlc_get said was applied')
	end
	-- another timeline's positions say nothing about ours
	if before(hi, lo) or sub(lo, 1, 8) ~= sub(applied, 1, 8) or
		sub(hi, 1, 8) ~= sub(applied, 1, 8) then
		return 'refused'
	end

	local guard = parse_guard(redis.call('MGET', name)[1])
	if not guard or guard.token ~= token or guard.nonce ~= nonce or
		guard.deadline <= now_ms() or guard.standing > 0 then
		return 'refused'
	end
	if guard.floor ~= '' and before(lo, guard.floor) and not before(hi, guard.floor) then
		lo = guard.floor
	end
	local plan = new_plan()
	if absent then
		drop(plan, key)
	else
		put(plan, key, payload, ttl)
	end
	put(plan, name, entry_text(lo, hi, absent, guard.tags), ttl)
	run(plan)
	return 'ok'
end

-- ---------- strong writers ----------

-- Marks must not be evicted.  The policy is looked at once a second, since
-- INFO costs more than all the rest.
local policy, policy_at = '', 0

local function evicts_marks(now)
	if now < policy_at or now >= policy_at + 1000 then
		policy = match(redis.call('INFO', 'memory'), 'maxmemory_policy:([%w-]+)') or ''
		policy_at = now
	end
	return sub(policy, 1, 8) == 'allkeys-'
end

-- Did an entry stand there, or that there is no row?  gone: something was removed.
local function was_cached(text, gone)
	return text and byte(text) ~= BAR and (gone and #text == PLAIN_ENTRY_LEN or
		#text > PLAIN_ENTRY_LEN and byte(text, FLAGS_AT) == LETTER_A)
end

-- What a guard with this text becomes when owner's mark is added; only: where
-- it is to be the only one, after: where an entry stood, too.
local function marked_text(text, gone, only, after, owner, limit, now)
	local guard = not has_no_marks(text) and parse_marked_guard(text, now)
	if not guard then
		return after and was_cached(text, gone) and after or only
	end
	if not guard.marks[owner] then
		guard.standing = guard.standing + 1
	end
	guard.marks[owner] = limit
	return marks_text(guard)
end

-- n keys; ns, nonce or '', owner, timeout (ms, 0 = none) [, remember (0/1)]:
-- entries and leases go, owner's mark stands on every key.  A nonce that is given
-- must be the current one.  remember: what was cached, for a release with a
-- payload.  1 when armed, 0 when not.	MLCEVICT where marks may be evicted.
--
-- Every strong commit waits for it, so: one key takes as few commands as can be.
local function mlc_quarantine(keys, args)
	local n = need_keys(keys, 1, MAX_KEYS)
	need_args(args, 4, 5)
	local ns = need_namespace(args[1])
	local owner = need_name('owner', args[3])
	local remember = args[5] and need_flag('remember', args[5])
	local timeout = args[4] == '0' and 0 or need_ms('timeout', args[4], 0)
	if args[2] ~= '' and redis.call('HGET', state_key(ns), 'nonce') ~= args[2] then
		return wrong_nonce(ns)
	end
	local names = guard_names(keys)
	local now = now_ms()
	if evicts_marks(now) then
		return redis.error_reply('MLCEVICT maxmemory-policy ' .. policy .. ' may evict marks')
	end
	local limit = timeout > 0 and now + timeout or 0
	local limit_text = format('%.0f', limit)
	local only = only_mark_text(owner, limit_text)
	local after = remember and armed[ns] and only_mark_text(owner, limit_text, armed[ns])
	if n == 1 then
		local gone = redis.call('UNLINK', keys[1]) == 1
		local text = marked_text(exchange(names[1], only), gone, only, after, owner, limit, now)
		if text ~= only then
			redis.call('SET', names[1], text)
		end
	else
		local texts = redis.call('MGET', unpack(names))
		local puts = {}
		for i = 1, n do
			local gone = after and redis.call('UNLINK', keys[i]) == 1
			puts[2 * i - 1] = names[i]
			puts[2 * i] = marked_text(texts[i], gone, only, after, owner, limit, now)
		end
		if not after then
			redis.call('UNLINK', unpack(keys))
		end
		redis.call('MSET', unpack(puts))
	end
	return armed[ns] and 1 or 0
end

-- n keys; ns, owner, version ('' = aborted), tell (0/1) [, then for each key:
-- ttl (ms, 0 = none; '' = no payload), payload] -> {set, deleted, waiting}.
--
-- Ends owner's marks.  The payload is set only if owner's mark still stood,
-- was the last one, the version is above the floor, there is no taint, and
-- something was cached when the first mark came, under the arming that still
-- holds; else the entry goes.  An abort leaves alone what others have put there since.
-- waiting counts the keys that other owners still hold.  tell: all who change
-- these keys leave marks, so that whoever fills next may be told the version.
local function mlc_release(keys, args)
	local n = need_keys(keys, 1, MAX_KEYS)
	local given = #args > 4
	need_args(args, given and 4 + 2 * n or 4, given and 4 + 2 * n or 4)
	local ns = need_namespace(args[1])
	local owner = need_name('owner', args[2])
	local version = args[3]
	local committed = version ~= ''
	if committed then
		need_version('version', version)
	end
	local tell = need_flag('tell', args[4])
	local only = only_mark_text(owner, 0)
	local names = guard_names(keys)
	local texts

	-- one key, and mostly no mark but its own: that takes one command
	if n == 1 and committed and tell and not given then
		texts = {exchange(names[1], released_text(version), 'PX', RELEASED_MS)}
		if texts[1] == only then
			return {0, 1, 0}
		end
	else
		texts = redis.call('MGET', unpack(names))
	end
	need_distinct(keys)
	local nonce, applied
	if given then
		nonce, applied = get_state(ns)
		nonce = is_armed(ns, nonce) and applied and nonce
	end
	local now
	local plan = new_plan()
	local set, deleted, waiting = 0, 0, 0
	for i = 1, n do
		local key, name, text = keys[i], names[i], texts[i]
		local ttl = given and args[3 + 2 * i] ~= '' and
			need_ms('time to live', args[3 + 2 * i], 0)

		local guard, own = NO_MARKS, text == only
		if not own then
			now = now or now_ms()
			guard = parse_marked_guard(text, now)
			own = guard ~= nil and end_mark(guard, owner)
		end
		if guard and guard.standing > 0 then
			if committed then
				raise_floor(guard, version)
			end
			clear(plan, key, name, guard)
			waiting = waiting + 1
		elseif committed and ttl and own and not guard.taint and guard.nonce == nonce and
			(guard.floor == '' or before(guard.floor, version)) then
			put(plan, key, args[4 + 2 * i], ttl)
			put(plan, name, entry_text(version, version, false), ttl)
			set = set + 1
		elseif tell and committed and own and not guard.taint then
			drop(plan, key)
			put(plan, name, released_text(latest(guard.floor, version)), RELEASED_MS)
			deleted = deleted + 1
		elseif committed or own then
			clear(plan, key, name, nil)
			deleted = deleted + 1
		end
	end
	run(plan)
	return {set, deleted, waiting}
end

-- ---------- cleaning up ----------

-- The count.
local function need_cursor(cursor, count)
	if not find(cursor, '^%d+$') then
		arg_error('cursor must be a number')
	end
	local number = tonumber(count)
	if not find(count, '^%d+$') or number < 1 or number > MAX_KEYS then
		arg_error('count must be 1 to %d', MAX_KEYS)
	end
	return number
end

local function scan(args, pattern)
	local count = need_cursor(args[2], args[3])
	local page = redis.call('SCAN', args[2], 'MATCH', pattern, 'COUNT', count)
	return page[1], page[2]
end

-- 0 keys; ns, cursor, count: one step of a scan over all guards on this
-- server.	Ends overdue marks; leaves nothing behind that has none.
-- -> {next cursor, marks ended, {key, owner, key, owner, ...}}: the marks
-- without a deadline, for the caller to look their owners up (and to end with
-- mlc_invalidate those whose owner is gone).
local function mlc_sweep(keys, args)
	need_keys(keys, 0, 0)
	need_args(args, 3, 3)
	need_name('namespace', args[1])
	local cursor, names = scan(args, 'mlc:*{*}*')
	local now = now_ms()
	local ended, endless = 0, {}
	for _, name in ipairs(names) do
		local key = key_of_guard(name)
		-- one may have been left behind where its slot is no longer
		local texts = key and redis.pcall('MGET', name)
		local guard = texts and not texts.err and parse_guard(texts[1])
		if guard and guard.standing > 0 then
			local overdue = end_overdue(guard, now)
			if overdue > 0 then
				leave_marks(name, guard)
			end
			ended = ended + overdue
			for owner, limit in pairs(guard.marks) do
				if limit == 0 then
					endless[#endless + 1] = key
					endless[#endless + 1] = owner
				end
			end
		end
	end
	return {cursor, ended, endless}
end

-- 0 keys; ns, cursor, count, glob [, version]: one step of a scan over keys or
-- guards that match glob; their entries and leases go, marks stay.	With a
-- version, entries that are no older than it stay.
-- -> {next cursor, keys cleared [, {key...}]}: the keys are those whose guard is
-- an entry's, and whose entry was not here; in a cluster that guard stays.
local function mlc_purge(keys, args)
	need_keys(keys, 0, 0)
	need_args(args, 4, 5)
	need_name('namespace', args[1])
	local version = args[5] and need_version('version', args[5])
	local cursor, found = scan(args, args[4])
	local now = now_ms()
	local cleared, alone = 0, {}
	for _, key in ipairs(found) do
		local name = key
		if sub(key, 1, 4) == 'mlc:' then
			key = key_of_guard(name)
		else
			local fine, result = pcall(guard_name, key)
			name = fine and result
		end
		if key and name then
			-- key by key: in a cluster, a command is for one slot, and each
			-- of the two may be elsewhere while the slot is on its way
			local texts = redis.pcall('MGET', name)
			local guard = not texts.err and parse_marked_guard(texts[1], now)
			if not version or not guard or guard.lo == '' or before(guard.lo, version) then
				local gone = redis.pcall('UNLINK', key)
				local split = gone ~= 1 and guard and guard.lo ~= '' and not guard.absent
				if split then
					alone[#alone + 1] = key
				end
				-- of a cluster it stays, and is named again, until it has been
				-- removed from all masters
				if not split or not tags[args[1]] then
					leave_marks(name, guard)
				end
				redis.pcall('UNLINK', kept_name(name))
				cleared = cleared + 1
			end
		end
	end
	return {cursor, cleared, #alone > 0 and alone or nil}
end

-- ---------- registration ----------

local function mlc_version(keys, args)
	return VERSION
end

local function bind()
	byte, find, format, gmatch = string.byte, string.find, string.format, string.gmatch
	match, sub, concat = string.match, string.sub, table.concat
	text_sorts = locale_sorts_hex()
	before = text_sorts and before_as_text or before_as_numbers
end

-- allow-cross-slot-keys: a guard shares its entry's slot, but the state of
-- the namespace need not.	allow-oom: what deletes or publishes must get
-- through when memory is full, and so must hits; fill and apply need not.
local function register(name, callback, ...)
	redis.register_function{
		function_name = name,
		callback = function(keys, args)
			if not before then
				bind()
			end
			return callback(keys, args)
		end,
		flags = {'allow-cross-slot-keys', ...}
	}
end

redis.register_function{
	function_name = 'mlc_armed',
	callback = mlc_armed,
	flags = {'allow-cross-slot-keys', 'allow-oom'}
}
register('mlc_version', mlc_version, 'no-writes')
register('mlc_state', mlc_state, 'no-writes')
register('mlc_disarm', mlc_disarm, 'allow-oom')
register('mlc_begin', mlc_begin, 'allow-oom')
register('mlc_close', mlc_close, 'allow-oom')
register('mlc_templates', mlc_templates, 'allow-oom')
register('mlc_arm', mlc_arm, 'allow-oom')
register('mlc_adopt', mlc_adopt, 'allow-oom')
register('mlc_publish', mlc_publish, 'allow-oom')
register('mlc_apply', mlc_apply)
register('mlc_invalidate', mlc_invalidate, 'allow-oom')
register('mlc_keep', mlc_keep)
register('mlc_get', mlc_get, 'allow-oom')
register('mlc_mget', mlc_mget, 'allow-oom')
register('mlc_fill', mlc_fill)
register('mlc_quarantine', mlc_quarantine, 'allow-oom')
register('mlc_release', mlc_release, 'allow-oom')
register('mlc_sweep', mlc_sweep, 'allow-oom')
register('mlc_purge', mlc_purge, 'allow-oom')
