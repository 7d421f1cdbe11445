/*-------------------------------------------------------------------------
 *
 * base/grow.h
 *	  Arrays that grow as they are filled.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_BASE_GROW_H
#define MLC_BASE_GROW_H

#include "postgres.h"

#include "utils/memutils.h"

/*
 * Makes room for one more element in an array of *size, of which so many are
 * used; NULL: there is none yet, whatever *size says, and it is made in the
 * context.  It may be huge, and it may move.  ERROR 53200 when memory is out,
 * 54000 past 2^30 elements.
 */
static inline void *
mlc_grow(MemoryContext context, void *array, int used, int *size, Size element)
{
	if (array == NULL)
		*size = 0;
	else if (likely(used < *size))
		return array;
	if (*size > PG_INT32_MAX / 2)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("an array would have too many elements")));
	*size = Max(16, *size * 2);
	if (array == NULL)
		return MemoryContextAllocHuge(context, element * *size);
	return repalloc_huge(array, element * *size);
}

#endif							/* MLC_BASE_GROW_H */
