/*-------------------------------------------------------------------------
 *
 * base/compat.h
 *	  The only place that knows PostgreSQL's version.
 *
 * Each shim carries its reason.  Call sites use the newest signature.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_BASE_COMPAT_H
#define MLC_BASE_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "mlcache needs PostgreSQL 15 or later"
#endif

#include "catalog/pg_class.h"
#include "catalog/pg_foreign_server.h"
#include "common/jsonapi.h"
#include "mb/pg_wchar.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/memutils.h"

/* PostgreSQL 16 took this out of postgres.h. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* PostgreSQL 16 has one function for the owners of all kinds of objects. */
static inline bool
mlc_is_table_owner(Oid relid, Oid userid)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(RelationRelationId, relid, userid);
#else
	return pg_class_ownercheck(relid, userid);
#endif
}

/* PostgreSQL 16 checks rights on all kinds of objects in one function, too. */
static inline AclResult
mlc_server_aclcheck(Oid serverid, Oid userid, AclMode mode)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ForeignServerRelationId, serverid, userid, mode);
#else
	return pg_foreign_server_aclcheck(serverid, userid, mode);
#endif
}

/* PostgreSQL 17 can ask for a mode or a stronger one. */
static inline bool
mlc_lock_held_by_me(const LOCKTAG *tag, LOCKMODE mode)
{
#if PG_VERSION_NUM >= 170000
	return LockHeldByMe(tag, mode, false);
#else
	return LockHeldByMe(tag, mode);
#endif
}

/* PostgreSQL 17 can keep the lexer's state on the stack. */
static inline bool
mlc_json_is_valid(const char *text, size_t len)
{
	JsonLexContext *lex;
	bool		valid;

#if PG_VERSION_NUM >= 170000
	lex = makeJsonLexContextCstringLen(NULL, text, len, GetDatabaseEncoding(), false);
#else
	lex = makeJsonLexContextCstringLen(unconstify(char *, text), len,
									   GetDatabaseEncoding(), false);
#endif
	valid = pg_parse_json(lex, &nullSemAction) == JSON_SUCCESS;
#if PG_VERSION_NUM >= 170000
	freeJsonLexContext(lex);
#else
	pfree(lex);
#endif
	return valid;
}

/*
 * Up to PostgreSQL 16 a decoded change holds tuples with a buffer of their
 * own.  A macro, so that this file needs no replication/reorderbuffer.h.
 */
#if PG_VERSION_NUM >= 170000
#define MLC_CHANGE_TUPLE(tuple) (tuple)
#else
#define MLC_CHANGE_TUPLE(buf) ((buf) ? &(buf)->tuple : NULL)
#endif

/* PostgreSQL 16 calls a relation's file by other names. */
#if PG_VERSION_NUM >= 160000
#define MlcRelFile RelFileLocator
#define MLC_REL_FILE_NUMBER(file) ((file).relNumber)
#else
#define MlcRelFile RelFileNode
#define MLC_REL_FILE_NUMBER(file) ((file).relNode)
#endif

/* PostgreSQL 17 can flush a message that is not transactional, too. */
#if PG_VERSION_NUM >= 170000
#define MLC_LOG_MESSAGE(prefix, message, size, transactional) \
	LogLogicalMessage(prefix, message, size, transactional, false)
#else
#define MLC_LOG_MESSAGE(prefix, message, size, transactional) \
	LogLogicalMessage(prefix, message, size, transactional)
#endif

/*
 * A wait event set that lives until it is freed.  PostgreSQL 17 would have it
 * belong to a resource owner, or to none, instead of a memory context.
 */
static inline WaitEventSet *
mlc_create_wait_event_set(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

/* PostgreSQL 17 took the number out of PGPROC. */
static inline int
mlc_my_proc_number(void)
{
#if PG_VERSION_NUM >= 170000
	return MyProcNumber;
#else
	return MyProc->pgprocno;
#endif
}

/* PostgreSQL 16 keeps rights apart from the range table. */
#if PG_VERSION_NUM >= 160000
#define mlc_check_permissions(stmt) \
	((void) ExecCheckPermissions((stmt)->rtable, (stmt)->permInfos, true))
#else
#define mlc_check_permissions(stmt) \
	((void) ExecCheckRTPerms((stmt)->rtable, true))
#endif

/* PostgreSQL 17 has failover slots, and slots that are synchronized. */
#if PG_VERSION_NUM >= 170000
#define MLC_SLOT_CREATE(name, db_specific, persistency, two_phase, failover) \
	ReplicationSlotCreate(name, db_specific, persistency, two_phase, failover, \
						  false)
#else
#define MLC_SLOT_CREATE(name, db_specific, persistency, two_phase, failover) \
	ReplicationSlotCreate(name, db_specific, persistency, two_phase)
#endif

/*
 * Where a slot says whether it is a failover slot; NULL before PostgreSQL 17.
 * ReplicationSlotAlter() (whose arguments differ in PostgreSQL 18) is no good
 * for a slot that is decoded from: it wants to acquire the slot itself.  A
 * macro, so that this file needs no replication/slot.h.
 */
#if PG_VERSION_NUM >= 170000
#define MLC_SLOT_FAILOVER(slot) (&(slot)->data.failover)
#else
#define MLC_SLOT_FAILOVER(slot) ((bool *) NULL)
#endif

/*
 * Has the slot been synchronized from another server?  Only from PostgreSQL 17
 * on, which lets nobody drop such a slot on a standby.
 */
#if PG_VERSION_NUM >= 170000
#define MLC_SLOT_IS_SYNCED(slot) ((slot)->data.synced != 0)
#define MLC_SLOT_SET_OWN(slot) ((slot)->data.synced = false)
#else
#define MLC_SLOT_IS_SYNCED(slot) false
#define MLC_SLOT_SET_OWN(slot) ((void) 0)
#endif

/* PostgreSQL 18 can refuse a slot that has been invalidated. */
#if PG_VERSION_NUM >= 180000
#define MLC_SLOT_ACQUIRE(name, nowait) ReplicationSlotAcquire(name, nowait, false)
#else
#define MLC_SLOT_ACQUIRE(name, nowait) ReplicationSlotAcquire(name, nowait)
#endif

/* PostgreSQL 16 tells why a slot has been invalidated instead of where. */
#if PG_VERSION_NUM >= 160000
#define MLC_SLOT_IS_INVALIDATED(slot) ((slot)->data.invalidated != RS_INVAL_NONE)
#else
#define MLC_SLOT_IS_INVALIDATED(slot) \
	((slot)->data.invalidated_at != InvalidXLogRecPtr)
#endif

#endif							/* MLC_BASE_COMPAT_H */
