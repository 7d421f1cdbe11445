/*-------------------------------------------------------------------------
 *
 * clock.c
 *	  Preloaded into a Redis: its wall clock, moved by the seconds that the
 *	  file MLC_CLOCK says.  (libfaketime and jemalloc do not get along.)
 *
 *-------------------------------------------------------------------------
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int
gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
	struct timespec now;
	char		text[32] = "";
	const char *path = getenv("MLC_CLOCK");
	int			file = path ? open(path, O_RDONLY) : -1;

	if (file >= 0)
	{
		if (read(file, text, sizeof(text) - 1) < 0)
			text[0] = '\0';
		close(file);
	}
	clock_gettime(CLOCK_REALTIME, &now);
	tv->tv_sec = now.tv_sec + atoi(text);
	tv->tv_usec = now.tv_nsec / 1000;
	return 0;
}
