/*-------------------------------------------------------------------------
 *
 * audit/report.h
 *	  One page that shows how things are, to be opened in a browser.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MLC_AUDIT_REPORT_H
#define MLC_AUDIT_REPORT_H

#include "postgres.h"

/* The page without its data: generated from report.html by the Makefile. */
extern const char mlc_report_text[];

/*
 * The page as HTML, complete in itself, in the current context.  What the
 * caller may not see makes it raise 42501.
 */
extern char *mlc_report(void);

#endif							/* MLC_AUDIT_REPORT_H */
