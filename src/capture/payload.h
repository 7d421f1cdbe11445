/*-------------------------------------------------------------------------
 *
 * capture/payload.h
 *	  The payload of a changed row: the row as JSON.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_CAPTURE_PAYLOAD_H
#define MLC_CAPTURE_PAYLOAD_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "model/bind.h"
#include "model/rule.h"

/* Is this column's value left out of the WAL record (unchanged TOAST)? */
extern bool mlc_payload_is_missing(HeapTuple tuple, TupleDesc desc,
								   AttrNumber attnum);

/* Does its text depend on settings of the session, as far as types tell? */
extern bool mlc_payload_wants_pin(MlcBinding *binding, TupleDesc desc);

/*
 * Are functions run for it that are not written in C, the cast of some type to
 * JSON?  Under a historic snapshot that would crash the server.
 */
extern bool mlc_payload_runs_functions(MlcBinding *binding, TupleDesc desc);

/*
 * The row as JSON into out, letter by letter what a loader's row_to_json()
 * gives.  False when a value is not in WAL.  Allocates in the current context;
 * wants the formats pinned, no snapshot but that of the change.
 */
extern bool mlc_payload_render(MlcBinding *binding, HeapTuple tuple,
							   TupleDesc desc, StringInfo out);

#endif							/* MLC_CAPTURE_PAYLOAD_H */
