#include "lg.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* In a body (or head) these 16 characters are replaced by a number, so that every request can differ. */
static const char MARKER[] = "@UNIQUE_16_CHAR@";

static char *bytes, *marks[8];
static size_t total;
static char tunnel[4096];
static int mark_count;
static long distinct;
static uint64_t run;

void request_prepare(const struct options *o)
{
	const char *proxy_auth = o->proxy_authorization;
	char auth[2048] = "";
	if (proxy_auth)
		snprintf(auth, sizeof auth, "Proxy-Authorization: %s\r\n", proxy_auth);
	snprintf(tunnel, sizeof tunnel, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", o->authority, o->authority, auth);
	size_t room = strlen(o->head) + o->body_bytes + strlen(o->path) + strlen(o->authority) * 2 + 4096;
	bytes = malloc(room);
	if (!bytes)
		abort();
	int n = snprintf(bytes, room, "%s %s%s%s HTTP/1.1\r\nHost: %s\r\n%s%s", o->method,
			 o->mode == ABSOLUTE ? (o->plain ? "http://" : "https://") : "", o->mode == ABSOLUTE ? o->authority : "",
			 o->path, o->authority, o->mode == ABSOLUTE ? auth : "", o->head);
	if (o->body_bytes)
		n += snprintf(bytes + n, room - (size_t)n, "Content-Length: %zu\r\n", o->body_bytes);
	n += snprintf(bytes + n, room - (size_t)n, "\r\n");
	memcpy(bytes + n, o->body, o->body_bytes);
	total = (size_t)n + o->body_bytes;
	bytes[total] = 0;
	for (char *at = strstr(bytes, MARKER); at && mark_count < 8; at = strstr(at + 1, MARKER))
		marks[mark_count++] = at;
	distinct = o->distinct;
	run = o->distinct < 0 ? (uint64_t)getpid() << 40 : 0;
}

size_t request_bytes(void)
{
	return total;
}

void request_write(char *out, uint64_t number)
{
	char text[17];
	if (distinct >= 0)
		number = distinct ? number % (uint64_t)distinct : 0;
	snprintf(text, sizeof text, "%016llx", (unsigned long long)(run ^ number ^ (distinct < 0 ? now_ns() << 20 : 0)));
	memcpy(out, bytes, total);
	for (int i = 0; i < mark_count; i++)
		memcpy(out + (marks[i] - bytes), text, 16);
}

const char *tunnel_request(size_t *n)
{
	*n = strlen(tunnel);
	return tunnel;
}
