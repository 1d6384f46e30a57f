/* lg: load on a proxy or server, then one JSON object on standard output.
 *
 *   lg --target 127.0.0.1:8080 --mode connect --authority api.bench.test:443 --body prompt.json --connections 16 --seconds 4
 *
 * Closed loop: every connection sends its next request when it has the answer. Open loop (--rate): requests are due at a
 * fixed rate whatever the answers do, and their latency counts from when they were due, so that waiting is not hidden.
 * With --gate it says "ready" when all connections are open and warm, and begins when it reads a byte; SIGINT ends it.
 */
#include "lg.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

struct options opt = {.authority = "localhost:443", .mode = CONNECT, .connections = 1, .ramp = 64, .warm = 1,
		      .seconds = 2, .deadline_s = 30, .method = "POST", .path = "/", .expect = 200};
struct stats stats;
SSL_CTX *tls;
int poller;
uint64_t next_number;

static struct conn *conns;
static int active, warming, measuring;
static uint64_t end_ns;

/* Open loop: connections without work, and due times without a connection. */
static struct conn **spare;
static int spares;
static uint64_t *waiting;
static size_t waiting_head, waiting_tail, waiting_room = 1 << 20;

static void die(const char *what)
{
	fprintf(stderr, "lg: %s\n", what);
	exit(2);
}

/* -- what a connection does next */

static void next_request(struct conn *c)
{
	uint64_t now = now_ns();
	if (now < c->not_before_ns)
		return; /* the sweep takes it up again */
	if (opt.rate > 0) {
		if (waiting_head == waiting_tail) {
			spare[spares++] = c;
			return;
		}
		now = waiting[waiting_head++ % waiting_room];
	} else if (now >= end_ns) {
		return;
	}
	active++;
	conn_begin(c, now);
}

static int pending; /* connections whose next request is due: begun from the loop, never from within a step */
static struct conn **ready;

void request_done(struct conn *c, int ok)
{
	active--;
	if (ok)
		stats.requests++;
	if (warming) {
		c->warm_left -= ok;
		if (c->warm_left <= 0)
			return;
	}
	ready[pending++] = c;
}

static void begin_ready(void)
{
	while (pending) {
		struct conn *c = ready[--pending];
		if (warming) {
			active++;
			if (stats.failures[F_CONNECT] + stats.failures[F_TUNNEL] + stats.failures[F_TLS] + stats.failures[F_STATUS] > 1000)
				die("1000 failures before the measurement began");
			conn_begin(c, now_ns());
		} else if (measuring) {
			next_request(c);
		}
	}
}

static void sweep(void)
{
	static uint64_t last;
	uint64_t now = now_ns();
	if (now - last < 10000000)
		return;
	last = now;
	for (int i = 0; i < opt.connections; i++) {
		struct conn *c = &conns[i];
		if (c->phase != IDLE && now > c->deadline_ns) {
			conn_fail(c, F_DEADLINE);
		} else if (measuring && c->not_before_ns && now >= c->not_before_ns) {
			c->not_before_ns = 0;
			if (c->phase == IDLE)
				next_request(c);
		}
	}
}

static void poll_once(int timeout_ms)
{
	static struct epoll_event events[512];
	int n = epoll_wait(poller, events, 512, timeout_ms);
	for (int i = 0; i < n; i++)
		conn_step(events[i].data.ptr);
	begin_ready();
	sweep();
}

/* -- the phases of a run */

static void warm_up(void)
{
	warming = 1;
	for (int next = 0; next < opt.connections || active;) {
		while (next < opt.connections && active < opt.ramp) {
			active++;
			conn_begin(&conns[next++], now_ns());
		}
		begin_ready();
		poll_once(10);
	}
	warming = 0;
}

static void gate(void)
{
	char byte;
	printf("ready\n");
	fflush(stdout);
	if (read(STDIN_FILENO, &byte, 1) < 0)
		die("standard input");
}

static void arrivals(uint64_t begin_ns, uint64_t *arrived)
{
	uint64_t now = now_ns();
	while (now < end_ns && begin_ns + (uint64_t)((double)*arrived / opt.rate * 1e9) <= now) {
		waiting[waiting_tail++ % waiting_room] = begin_ns + (uint64_t)((double)(*arrived)++ / opt.rate * 1e9);
		if (spares)
			next_request(spare[--spares]);
	}
}

static volatile sig_atomic_t interrupted; /* SIGINT ends the measurement early: what runs is finished and reported */

static void interrupt(int number)
{
	(void)number;
	interrupted = 1;
}

static double measure(void)
{
	uint64_t begin_ns = now_ns(), arrived = 0;
	end_ns = begin_ns + (uint64_t)(opt.seconds * 1e9);
	uint64_t give_up_ns = end_ns + (uint64_t)(opt.deadline_s * 1e9);
	measuring = 1;
	for (int i = 0; i < opt.connections; i++)
		ready[pending++] = &conns[i];
	begin_ready();
	while ((now_ns() < end_ns || active) && now_ns() < give_up_ns) {
		if (interrupted && now_ns() < end_ns) {
			end_ns = now_ns();
			give_up_ns = end_ns + (uint64_t)(opt.deadline_s * 1e9);
		}
		if (opt.rate > 0)
			arrivals(begin_ns, &arrived);
		begin_ready();
		poll_once(opt.rate > 0 && now_ns() < end_ns ? 0 : 5);
	}
	measuring = 0;
	return (double)(now_ns() - begin_ns) / 1e9;
}

/* -- options */

static void parse_address(const char *text)
{
	char host[64];
	const char *colon = strrchr(text, ':');
	if (!colon || (size_t)(colon - text) >= sizeof host)
		die("--target takes ADDRESS:PORT");
	memcpy(host, text, (size_t)(colon - text));
	host[colon - text] = 0;
	opt.target.sin_family = AF_INET;
	opt.target.sin_port = htons((uint16_t)atoi(colon + 1));
	if (inet_pton(AF_INET, host, &opt.target.sin_addr) != 1)
		die("--target takes an IPv4 address");
}

static void read_body(const char *path)
{
	FILE *file = fopen(path, "rb");
	if (!file)
		die("--body: cannot read the file");
	opt.body = malloc(16 << 20);
	opt.body_bytes = opt.body ? fread(opt.body, 1, 16 << 20, file) : 0;
	fclose(file);
}

static void add_field(const char *line)
{
	size_t had = opt.head ? strlen(opt.head) : 0;
	opt.head = realloc(opt.head, had + strlen(line) + 3);
	if (!opt.head)
		die("memory");
	sprintf(opt.head + had, "%s\r\n", line);
}

static const char *ca;

static void set(const char *name, const char *value)
{
	const struct { const char *name; int *at; double *real; const char **text; } table[] = {
		{"connections", &opt.connections, 0, 0}, {"ramp", &opt.ramp, 0, 0}, {"warm", &opt.warm, 0, 0},
		{"mark", &opt.mark, 0, 0}, {"expect", &opt.expect, 0, 0},
		{"seconds", 0, &opt.seconds, 0}, {"rate", 0, &opt.rate, 0}, {"deadline", 0, &opt.deadline_s, 0},
		{"authority", 0, 0, &opt.authority}, {"method", 0, 0, &opt.method}, {"path", 0, 0, &opt.path},
		{"proxy-authorization", 0, 0, &opt.proxy_authorization}, {"ca", 0, 0, &ca}, {"source", 0, 0, &opt.source},
	};
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		if (strcmp(table[i].name, name))
			continue;
		if (table[i].at)
			*table[i].at = atoi(value);
		else if (table[i].real)
			*table[i].real = atof(value);
		else
			*table[i].text = value;
	}
	if (!strcmp(name, "mode"))
		opt.mode = !strcmp(value, "direct") ? DIRECT : !strcmp(value, "absolute") ? ABSOLUTE : CONNECT;
	else if (!strcmp(name, "target"))
		parse_address(value);
	else if (!strcmp(name, "body"))
		read_body(value);
	else if (!strcmp(name, "header"))
		add_field(value);
	else if (!strcmp(name, "distinct"))
		opt.distinct = atol(value);
}

static void parse(int argc, char **argv)
{
	static const char *const with_value[] = {
		"target", "mode", "authority", "connections", "ramp", "warm", "mark", "source", "expect", "seconds", "rate",
		"deadline", "method", "path", "proxy-authorization", "ca", "body", "header", "distinct",
	};
	enum { VALUES = sizeof with_value / sizeof *with_value };
	struct option options[VALUES + 6] = {
		{"fresh", 0, &opt.fresh, 1}, {"plain", 0, &opt.plain, 1}, {"gate", 0, &opt.gate, 1},
		{"hold", 0, &opt.hold, 1},   {"stream", 0, &opt.stream, 1},
	};
	for (int i = 0; i < VALUES; i++)
		options[5 + i] = (struct option){with_value[i], required_argument, NULL, 'v'};
	for (int which, got; (got = getopt_long(argc, argv, "", options, &which)) != -1;) {
		if (got == '?')
			exit(2);
		if (got == 'v')
			set(options[which].name, optarg);
	}
	if (!opt.target.sin_port || opt.connections < 1)
		die("--target ADDRESS:PORT is needed");
	if (!opt.head)
		opt.head = strdup("");
	snprintf(opt.host, sizeof opt.host, "%.*s", (int)strcspn(opt.authority, ":"), opt.authority);
}

static void prepare(void)
{
	struct rlimit files;
	static const unsigned char http1[] = "\x08http/1.1";
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, interrupt);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	poller = epoll_create1(0);
	tls = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_alpn_protos(tls, http1, sizeof http1 - 1);
	if (ca) {
		if (!SSL_CTX_load_verify_locations(tls, ca, NULL))
			die("--ca: cannot read the file");
		SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, NULL);
	}
	request_prepare(&opt);
	size_t n = (size_t)opt.connections;
	conns = calloc(n, sizeof *conns);
	spare = calloc(n + 1, sizeof *spare);
	ready = calloc(2 * n + 2, sizeof *ready);
	waiting = calloc(waiting_room, sizeof *waiting);
	if (!conns || !spare || !ready || !waiting)
		die("memory");
	for (int i = 0; i < opt.connections; i++)
		conns[i] = (struct conn){.fd = -1, .number = i, .warm_left = opt.warm, .out = malloc(request_bytes() + 1)};
}

int main(int argc, char **argv)
{
	parse(argc, argv);
	prepare();
	if (!opt.fresh && opt.warm)
		warm_up();
	if (opt.gate)
		gate();
	if (opt.hold)
		return 0;
	uint64_t failed_before = 0;
	for (int i = 0; i < FAILURES; i++)
		failed_before += stats.failures[i];
	if (failed_before)
		fprintf(stderr, "lg: %llu failures while warming up\n", (unsigned long long)failed_before);
	stats = (struct stats){0};
	double elapsed_s = measure();
	report(&stats, elapsed_s, opt.stream);
	return 0;
}
