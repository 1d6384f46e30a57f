/* A load generator for proxies: one thread, epoll, OpenSSL. See main.c for the options and the output. */
#ifndef LG_H
#define LG_H

#include <netinet/in.h>
#include <openssl/ssl.h>
#include <stddef.h>
#include <stdint.h>

enum mode { DIRECT, CONNECT, ABSOLUTE };

struct options {
	struct sockaddr_in target; /* where TCP connects to */
	const char *authority;     /* host:port of the origin: CONNECT target, Host; SNI without the port */
	char host[256];
	enum mode mode;
	int plain;        /* no TLS to the origin */
	int fresh;        /* a connection per request */
	int connections;
	int ramp;         /* connections set up at the same time */
	int warm;         /* requests per connection before the measurement (keep-alive only) */
	int hold;         /* measure nothing: hold the warm connections until the gate opens */
	int gate;         /* print "ready", wait for a byte on standard input */
	int stream;       /* count server-sent events */
	int mark;         /* SO_MARK, so that a firewall rule can redirect just this traffic */
	const char *source; /* address to come from */
	long distinct;    /* bodies: 0 one, -1 every one its own, K a cycle of K */
	double rate;      /* open loop, requests per second in all; 0: closed loop */
	double seconds;
	double deadline_s;
	char *head;       /* request head but for Host and Content-Length */
	const char *method, *path, *proxy_authorization;
	char *body;
	size_t body_bytes;
	int expect;       /* status that counts as success */
};

/* -- stats.c: nanosecond samples, and counts of what went wrong */
enum failure { F_CONNECT, F_TUNNEL, F_TLS, F_CLOSED, F_STATUS, F_PROTOCOL, F_DEADLINE, FAILURES };
struct samples { uint64_t *ns; size_t n, room; };
struct stats {
	struct samples latency, first_event;
	uint64_t requests, handshakes, events, payload_bytes, failures[FAILURES];
	int other_status;
};
void sample(struct samples *, uint64_t ns);
void report(struct stats *, double elapsed_s, int stream);
uint64_t now_ns(void);

/* -- reply.c: an HTTP/1.1 response, read incrementally */
struct reply {
	enum { R_HEAD, R_SIZED, R_CHUNK_LINE, R_CHUNK, R_CHUNK_END, R_TRAILER, R_TO_EOF, R_DONE, R_BAD } at;
	long left;
	int status, keep;
	char line[16384];
	size_t n;
	char last;             /* last payload byte: an event ends in two newlines */
	uint64_t payload, events;
};
void reply_reset(struct reply *);
size_t reply_feed(struct reply *, const char *data, size_t n); /* returns the bytes that belong to the response */
int reply_eof(struct reply *);                                 /* true when the end of the connection ends it */

/* -- request.c: the bytes to send */
void request_prepare(const struct options *);
size_t request_bytes(void);
void request_write(char *out, uint64_t number); /* `out` has room for request_bytes() */
const char *tunnel_request(size_t *n);

/* -- conn.c: one connection */
enum phase { IDLE, CONNECTING, TUNNEL_SEND, TUNNEL_READ, HANDSHAKE, SENDING, READING };
struct conn {
	int fd, number, warm_left;
	enum phase phase;
	SSL *ssl;
	char *out;
	size_t out_bytes, sent;
	uint64_t due_ns;      /* when the request should have begun: latency counts from here */
	uint64_t deadline_ns, not_before_ns, first_event_ns;
	struct reply reply;
};
void conn_begin(struct conn *, uint64_t due_ns); /* starts a request, connecting first where needed */
void conn_step(struct conn *);                   /* goes on as far as it can */
void conn_fail(struct conn *, enum failure);
void conn_close(struct conn *);

/* -- main.c: what connections need to know */
extern struct options opt;
extern struct stats stats;
extern SSL_CTX *tls;
extern int poller;
extern uint64_t next_number;
void request_done(struct conn *, int ok); /* called once per request begun */

#endif
