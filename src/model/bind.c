/*-------------------------------------------------------------------------
 *
 * model/bind.c
 *	  A rule as it applies to one relation: where its columns are, how they
 *	  become text, and the key of a row.
 *
 * What is found out here holds until the relation's next invalidation; the
 * cache in model/rule.c sees to that.  Works under a historic snapshot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "model/bind.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

bool
mlc_bind_identity_covers(Relation relation, const AttrNumber *attnums, int n)
{
	Oid			index;
	Relation	desc;
	bool		all = true;

	if (relation->rd_rel->relreplident == REPLICA_IDENTITY_FULL)
		return true;

	index = RelationGetReplicaIndex(relation);
	if (!OidIsValid(index))
		return false;
	desc = RelationIdGetRelation(index);
	if (!RelationIsValid(desc))
		return false;
	for (int i = 0; i < n && all; i++)
	{
		bool		found = false;

		for (int j = 0; j < desc->rd_index->indnkeyatts && !found; j++)
			found = desc->rd_index->indkey.values[j] == attnums[i];
		all = found;
	}
	RelationClose(desc);
	return all;
}

/* Types whose text form depends on no setting. */
static bool
type_is_plain(Oid type)
{
	switch (type)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case BOOLOID:
		case NUMERICOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case NAMEOID:
		case CHAROID:
		case UUIDOID:
		case INETOID:
		case CIDROID:
		case MACADDROID:
			return true;
		default:
			return get_typtype(type) == TYPTYPE_ENUM;
	}
}

/*
 * May the text depend on search_path, and on who may use which schema?  That of
 * a type of a user may, for all we know.
 */
static bool
type_needs_disguise(Oid type)
{
	Oid			element;

	switch (type)
	{
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGTYPEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case REGCOLLATIONOID:
			return true;
		default:
			break;
	}
	element = get_element_type(type);
	if (OidIsValid(element))
		return type_needs_disguise(element);
	switch (get_typtype(type))
	{
		case TYPTYPE_DOMAIN:
			return type_needs_disguise(getBaseType(type));
		case TYPTYPE_ENUM:
			return false;
		case TYPTYPE_COMPOSITE:
			return true;
		default:
			return type >= FirstNormalObjectId;
	}
}

static bool
payload_needs_disguise(MlcBinding *binding, TupleDesc desc)
{
	TupleDesc	payload = binding->payload_desc ? binding->payload_desc : desc;

	for (int i = 0; i < payload->natts; i++)
		if (!TupleDescAttr(payload, i)->attisdropped &&
			type_needs_disguise(TupleDescAttr(payload, i)->atttypid))
			return true;
	return false;
}

static AttrNumber
find_column(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
			return att->attnum;
	}
	return InvalidAttrNumber;
}

/*
 * The payload of a partition takes the columns in the root's order, so that
 * it reads like what a loader gets from the root.
 */
static bool
bind_payload(MlcRule *rule, Relation relation, MlcBinding *binding,
			 const char **missing)
{
	TupleDesc	desc = RelationGetDescr(relation);
	const char **names;
	int			n = 0;
	bool		asis = true;

	if (rule->ncolumns > 0)
	{
		names = (const char **) rule->columns;
		n = rule->ncolumns;
		asis = false;
	}
	else
	{
		Relation	root = NULL;
		TupleDesc	rootdesc = desc;

		if (rule->relid != RelationGetRelid(relation))
		{
			root = RelationIdGetRelation(rule->relid);
			if (!RelationIsValid(root))
			{
				*missing = "the root of the partitioned table";
				return false;
			}
			rootdesc = RelationGetDescr(root);
		}
		names = palloc(sizeof(char *) * Max(rootdesc->natts, 1));
		for (int i = 0; i < rootdesc->natts; i++)
		{
			Form_pg_attribute att = TupleDescAttr(rootdesc, i);

			if (att->attisdropped)
				continue;
			names[n++] = pstrdup(NameStr(att->attname));
			if (rootdesc != desc &&
				(i >= desc->natts || TupleDescAttr(desc, i)->attisdropped ||
				 strcmp(NameStr(TupleDescAttr(desc, i)->attname),
						NameStr(att->attname)) != 0))
				asis = false;
		}
		if (root)
			RelationClose(root);
	}

	if (asis)
		return true;

	binding->npayload = n;
	binding->payload_attnums = palloc(sizeof(AttrNumber) * Max(n, 1));
	binding->payload_desc = CreateTemplateTupleDesc(n);
	for (int i = 0; i < n; i++)
	{
		AttrNumber	attnum = find_column(desc, names[i]);

		if (attnum == InvalidAttrNumber)
		{
			*missing = names[i];
			return false;
		}
		binding->payload_attnums[i] = attnum;
		TupleDescCopyEntry(binding->payload_desc, i + 1, desc, attnum);
	}
	BlessTupleDesc(binding->payload_desc);
	return true;
}

bool
mlc_bind_rule(MlcRule *rule, Relation relation, MlcBinding *binding,
			  const char **missing)
{
	TupleDesc	desc = RelationGetDescr(relation);
	MlcTemplate *template = rule->template;

	memset(binding, 0, sizeof(*binding));
	binding->rule = rule;

	for (int i = 0; i < template->ncolumns; i++)
	{
		AttrNumber	attnum = find_column(desc, template->columns[i]);
		Oid			type;

		if (attnum == InvalidAttrNumber)
		{
			*missing = template->columns[i];
			return false;
		}
		binding->attnums[i] = attnum;
		type = TupleDescAttr(desc, attnum - 1)->atttypid;
		switch (type)
		{
			case INT2OID:
				binding->renderers[i] = MLC_TEXT_INT2;
				break;
			case INT4OID:
				binding->renderers[i] = MLC_TEXT_INT4;
				break;
			case INT8OID:
				binding->renderers[i] = MLC_TEXT_INT8;
				break;
			case TEXTOID:
			case VARCHAROID:
				binding->renderers[i] = MLC_TEXT_VARLENA;
				break;
			default:
				{
					Oid			output;
					bool		varlena;

					getTypeOutputInfo(type, &output, &varlena);
					fmgr_info_cxt(output, &binding->output[i],
								  CurrentMemoryContext);
					binding->renderers[i] = MLC_TEXT_OUTPUT;
					if (!type_is_plain(type))
						binding->pin_format = true;
					if (type_needs_disguise(type))
						binding->disguise = true;
					break;
				}
		}
	}
	binding->identity = mlc_bind_identity_covers(relation, binding->attnums,
												 template->ncolumns);
	if (rule->action == MLC_OP_UPDATE || rule->action == MLC_OP_REPLICATE ||
		rule->ncolumns > 0)
	{
		if (!bind_payload(rule, relation, binding, missing))
			return false;
		binding->disguise |= rule->action != MLC_OP_INVALIDATE &&
			payload_needs_disguise(binding, desc);
	}
	return true;
}

MlcRender
mlc_bind_render(MlcBinding *binding, HeapTuple tuple, TupleDesc desc,
				StringInfo out)
{
	MlcTemplate *template = binding->rule->template;
	const char *values[MLC_KEY_MAX_COLUMNS];
	char		numbers[MLC_KEY_MAX_COLUMNS][MAXINT8LEN + 1];

	for (int i = 0; i < template->ncolumns; i++)
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, binding->attnums[i], desc, &isnull);

		if (isnull)
			return MLC_RENDER_NULL;
		switch (binding->renderers[i])
		{
			case MLC_TEXT_INT2:
				pg_itoa(DatumGetInt16(value), numbers[i]);
				values[i] = numbers[i];
				break;
			case MLC_TEXT_INT4:
				pg_ltoa(DatumGetInt32(value), numbers[i]);
				values[i] = numbers[i];
				break;
			case MLC_TEXT_INT8:
				pg_lltoa(DatumGetInt64(value), numbers[i]);
				values[i] = numbers[i];
				break;
			case MLC_TEXT_VARLENA:
				values[i] = TextDatumGetCString(value);
				break;
			case MLC_TEXT_OUTPUT:
				values[i] = OutputFunctionCall(&binding->output[i], value);
				break;
		}
	}
	return mlc_key_render(template, values, out);
}
