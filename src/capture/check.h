/*-------------------------------------------------------------------------
 *
 * capture/check.h
 *	  What attach() refuses, and which capture it picks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_CAPTURE_CHECK_H
#define MLC_CAPTURE_CHECK_H

#include "postgres.h"

#include "capture/attach.h"

/*
 * Raises ERROR for whatever cannot be right, connects to each server once,
 * and returns the capture, with a NOTICE that says which and why.
 */
extern MlcCapture mlc_check_attach(const MlcAttach *attach, Relation relation);

/*
 * ERROR 42809 unless every change of the relation and its partitions is in
 * WAL, and nothing else inherits from it; 0A000 if it has row security.
 */
extern void mlc_check_table(Relation relation);

extern const char *mlc_check_capture_name(MlcCapture capture);

#endif							/* MLC_CAPTURE_CHECK_H */
