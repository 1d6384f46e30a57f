#include "lg.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { AGAIN = -1, BROKEN = -2 };

/* -- bytes in and out, with or without TLS: a count, 0 at the end, AGAIN or BROKEN */

static long tls_result(struct conn *c, int n)
{
	if (n > 0)
		return n;
	switch (SSL_get_error(c->ssl, n)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE:
		return AGAIN;
	case SSL_ERROR_ZERO_RETURN:
		return 0;
	default:
		ERR_clear_error();
		return BROKEN;
	}
}

static long get(struct conn *c, char *to, size_t room)
{
	if (c->ssl)
		return tls_result(c, SSL_read(c->ssl, to, (int)room));
	ssize_t n = recv(c->fd, to, room, 0);
	return n >= 0 ? n : errno == EAGAIN ? AGAIN : BROKEN;
}

static long put(struct conn *c, const char *from, size_t n)
{
	if (c->ssl)
		return tls_result(c, SSL_write(c->ssl, from, (int)n));
	ssize_t sent = send(c->fd, from, n, MSG_NOSIGNAL);
	return sent >= 0 ? sent : errno == EAGAIN ? AGAIN : BROKEN;
}

/* -- life of a connection */

static void bind_source(struct conn *c)
{
	struct sockaddr_in from = {.sin_family = AF_INET};
	int on = 1;
	inet_pton(AF_INET, opt.source, &from.sin_addr);
	setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
	bind(c->fd, (struct sockaddr *)&from, sizeof from);
}

static void open_connection(struct conn *c)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
	int on = 1;
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (c->fd < 0) {
		conn_fail(c, F_CONNECT);
		return;
	}
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (opt.mark)
		setsockopt(c->fd, SOL_SOCKET, SO_MARK, &opt.mark, sizeof opt.mark);
	if (opt.source)
		bind_source(c);
	c->phase = CONNECTING;
	if (connect(c->fd, (struct sockaddr *)&opt.target, sizeof opt.target) && errno != EINPROGRESS) {
		conn_fail(c, F_CONNECT);
		return;
	}
	epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

void conn_close(struct conn *c)
{
	if (c->ssl) {
		SSL_shutdown(c->ssl);
		SSL_free(c->ssl);
		ERR_clear_error();
		c->ssl = NULL;
	}
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->phase = IDLE;
}

void conn_fail(struct conn *c, enum failure why)
{
	stats.failures[why]++;
	if (c->ssl)
		SSL_set_quiet_shutdown(c->ssl, 1);
	conn_close(c);
	c->not_before_ns = now_ns() + 10000000; /* do not spin on a server that refuses */
	request_done(c, 0);
}

/* -- one request */

static void begin_request(struct conn *c)
{
	request_write(c->out, next_number++);
	c->out_bytes = request_bytes();
	c->sent = 0;
	c->first_event_ns = 0;
	reply_reset(&c->reply);
	c->phase = SENDING;
}

static void begin_handshake(struct conn *c)
{
	if (opt.plain) {
		begin_request(c);
		return;
	}
	c->ssl = SSL_new(tls);
	SSL_set_fd(c->ssl, c->fd);
	SSL_set_tlsext_host_name(c->ssl, opt.host);
	SSL_set1_host(c->ssl, opt.host);
	SSL_set_connect_state(c->ssl);
	c->phase = HANDSHAKE;
}

void conn_begin(struct conn *c, uint64_t due_ns)
{
	c->due_ns = due_ns;
	c->deadline_ns = now_ns() + (uint64_t)(opt.deadline_s * 1e9);
	if (c->fd < 0)
		open_connection(c);
	else
		begin_request(c);
	if (c->phase != IDLE)
		conn_step(c);
}

static void finish(struct conn *c)
{
	int ok = c->reply.status == opt.expect;
	uint64_t now = now_ns();
	stats.payload_bytes += c->reply.payload;
	stats.events += c->reply.events;
	if (!ok) {
		stats.failures[F_STATUS]++;
		stats.other_status = c->reply.status;
	} else {
		sample(&stats.latency, now - c->due_ns);
		if (c->first_event_ns)
			sample(&stats.first_event, c->first_event_ns - c->due_ns);
	}
	c->phase = IDLE;
	if (opt.fresh || !c->reply.keep)
		conn_close(c);
	request_done(c, ok);
}

/* Each returns true when the next phase can be tried at once. */

static int connecting(struct conn *c)
{
	int error = 0;
	socklen_t size = sizeof error;
	struct sockaddr_in peer;
	socklen_t peer_size = sizeof peer;
	getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
	if (error) {
		conn_fail(c, F_CONNECT);
		return 0;
	}
	if (getpeername(c->fd, (struct sockaddr *)&peer, &peer_size))
		return 0; /* not yet */
	c->sent = 0;
	if (opt.mode == CONNECT) {
		c->phase = TUNNEL_SEND;
		reply_reset(&c->reply);
	} else {
		begin_handshake(c);
	}
	return 1;
}

static int tunnel_send(struct conn *c)
{
	size_t size;
	const char *request = tunnel_request(&size);
	long n = put(c, request + c->sent, size - c->sent);
	if (n == AGAIN)
		return 0;
	if (n < 0) {
		conn_fail(c, F_CLOSED);
		return 0;
	}
	if ((c->sent += (size_t)n) == size)
		c->phase = TUNNEL_READ;
	return 1;
}

static int tunnel_read(struct conn *c)
{
	/* One byte at a time: nothing of the tunnel's content may be taken. The answer is short. */
	char byte;
	long n = get(c, &byte, 1);
	if (n == AGAIN)
		return 0;
	if (n <= 0) {
		conn_fail(c, F_CLOSED);
		return 0;
	}
	reply_feed(&c->reply, &byte, 1);
	if (c->reply.at == R_HEAD)
		return 1;
	if (c->reply.status != 200) {
		stats.other_status = c->reply.status;
		conn_fail(c, F_TUNNEL);
		return 0;
	}
	begin_handshake(c);
	return 1;
}

static int handshake(struct conn *c)
{
	int done = SSL_do_handshake(c->ssl);
	if (done == 1) {
		stats.handshakes++;
		begin_request(c);
		return 1;
	}
	if (tls_result(c, done) != AGAIN)
		conn_fail(c, F_TLS);
	return 0;
}

static int sending(struct conn *c)
{
	long n = put(c, c->out + c->sent, c->out_bytes - c->sent);
	if (n == AGAIN)
		return 0;
	if (n < 0) {
		conn_fail(c, F_CLOSED);
		return 0;
	}
	if ((c->sent += (size_t)n) == c->out_bytes)
		c->phase = READING;
	return 1;
}

static int reading(struct conn *c)
{
	static char buffer[65536];
	long n = get(c, buffer, sizeof buffer);
	if (n == AGAIN)
		return 0;
	if (n == 0 && reply_eof(&c->reply)) {
		finish(c);
		return 0;
	}
	if (n <= 0) {
		conn_fail(c, F_CLOSED);
		return 0;
	}
	size_t used = reply_feed(&c->reply, buffer, (size_t)n);
	if (c->reply.at == R_BAD || used != (size_t)n) {
		conn_fail(c, F_PROTOCOL);
		return 0;
	}
	if (opt.stream && c->reply.events && !c->first_event_ns)
		c->first_event_ns = now_ns();
	if (c->reply.at == R_DONE) {
		finish(c);
		return 0;
	}
	return 1;
}

static int idle(struct conn *c)
{
	char byte;
	/* Nothing is expected: a close is noticed here, TLS housekeeping (tickets) is swallowed. */
	long n = get(c, &byte, 1);
	if (n != AGAIN)
		conn_close(c);
	return 0;
}

void conn_step(struct conn *c)
{
	static int (*const steps[])(struct conn *) = {
		[IDLE] = idle,           [CONNECTING] = connecting, [TUNNEL_SEND] = tunnel_send, [TUNNEL_READ] = tunnel_read,
		[HANDSHAKE] = handshake, [SENDING] = sending,       [READING] = reading,
	};
	while (c->fd >= 0 && steps[c->phase](c))
		;
}
