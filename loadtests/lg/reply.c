/* RFC 9112 sections 4, 6 and 7, as far as a client of a well-behaved server needs them. */
#include "lg.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

void reply_reset(struct reply *r)
{
	r->at = R_HEAD;
	r->n = 0;
	r->left = 0;
	r->status = 0;
	r->payload = r->events = 0;
	r->last = 0;
}

static const char *field(const char *head, const char *name)
{
	size_t n = strlen(name);
	for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
		line += 2;
		if (!strncasecmp(line, name, n) && line[n] == ':')
			return line + n + 1 + strspn(line + n + 1, " \t");
	}
	return NULL;
}

static void head_complete(struct reply *r)
{
	const char *connection = field(r->line, "connection"), *coding = field(r->line, "transfer-encoding"),
		   *length = field(r->line, "content-length");
	if (strncmp(r->line, "HTTP/1.", 7)) {
		r->at = R_BAD;
		return;
	}
	r->status = atoi(r->line + 9);
	r->keep = r->line[7] == '1' && !(connection && !strncasecmp(connection, "close", 5));
	r->n = 0;
	if (r->status < 200 && r->status != 101)
		r->at = R_HEAD; /* interim: another head follows */
	else if (coding && !strncasecmp(coding, "chunked", 7))
		r->at = R_CHUNK_LINE;
	else if (length)
		r->at = (r->left = atol(length)) ? R_SIZED : R_DONE;
	else
		r->at = r->status == 204 || r->status == 304 ? R_DONE : R_TO_EOF;
}

static void payload(struct reply *r, const char *data, size_t n)
{
	r->payload += n;
	for (size_t i = 0; i < n; i++) {
		r->events += data[i] == '\n' && r->last == '\n';
		r->last = data[i];
	}
}

/* Collects a line; true when it is complete (without its CRLF). */
static int line_byte(struct reply *r, char c)
{
	if (r->n + 1 >= sizeof r->line) {
		r->at = R_BAD;
		return 0;
	}
	r->line[r->n++] = c;
	if (c != '\n')
		return 0;
	r->n -= r->n > 1 && r->line[r->n - 2] == '\r' ? 2 : 1;
	r->line[r->n] = 0;
	return 1;
}

static int head_byte(struct reply *r, char c)
{
	if (r->n + 1 >= sizeof r->line) {
		r->at = R_BAD;
		return 0;
	}
	r->line[r->n++] = c;
	r->line[r->n] = 0;
	return r->n >= 4 && c == '\n' && !memcmp(r->line + r->n - 4, "\r\n\r\n", 4);
}

static void framing_byte(struct reply *r, char c)
{
	if (r->at == R_HEAD) {
		if (head_byte(r, c))
			head_complete(r);
		return;
	}
	if (!line_byte(r, c))
		return;
	size_t length = r->n;
	r->n = 0;
	if (r->at == R_CHUNK_LINE) {
		r->left = strtol(r->line, NULL, 16);
		r->at = r->left ? R_CHUNK : R_TRAILER;
	} else if (r->at == R_CHUNK_END) {
		r->at = length ? R_BAD : R_CHUNK_LINE;
	} else if (!length) {
		r->at = R_DONE;
	}
}

size_t reply_feed(struct reply *r, const char *data, size_t n)
{
	size_t i = 0;
	while (i < n && r->at != R_DONE && r->at != R_BAD) {
		if (r->at != R_SIZED && r->at != R_CHUNK && r->at != R_TO_EOF) {
			framing_byte(r, data[i++]);
			continue;
		}
		size_t take = n - i;
		if (r->at != R_TO_EOF && take > (size_t)r->left)
			take = (size_t)r->left;
		payload(r, data + i, take);
		i += take;
		if (r->at != R_TO_EOF && !(r->left -= (long)take))
			r->at = r->at == R_SIZED ? R_DONE : R_CHUNK_END;
	}
	return i;
}

int reply_eof(struct reply *r)
{
	if (r->at != R_TO_EOF)
		return 0;
	r->at = R_DONE;
	r->keep = 0;
	return 1;
}
