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

#endif							/* MLC_BASE_COMPAT_H */
