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
#include "storage/lock.h"
#include "utils/acl.h"

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

#endif							/* MLC_BASE_COMPAT_H */
