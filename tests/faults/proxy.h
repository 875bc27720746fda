/*
 * proxy.h - a TCP proxy on 127.0.0.1 that does to connections what networks do. One thread of its own; the
 * functions may be called from any other.
 */
#ifndef PROXY_H
#define PROXY_H

#include <stdbool.h>
#include <stddef.h>

typedef struct proxy proxy;

typedef enum proxy_mode {
  PROXY_PASS,       /* as it comes */
  PROXY_DELAY,      /* each piece comes `value` ms later */
  PROXY_STALL_UP,   /* nothing from client to server; the rest flows */
  PROXY_STALL_DOWN, /* nothing from server to client */
  PROXY_SLICE,      /* one byte a write */
  PROXY_BLACK_HOLE  /* takes connections and bytes, and forwards nothing, in either direction */
} proxy_mode;

typedef enum proxy_fault {
  PROXY_CUT,      /* closes each connection once `value` more bytes have come from the server: mid-frame */
  PROXY_RESET,    /* RST to both sides, at once */
  PROXY_HALF_OPEN /* the server's side is closed, the client hears nothing of it */
} proxy_fault;

/* NULL: cannot listen. `target` is the server's port. */
proxy *proxy_open(int target);
int proxy_port(const proxy *p);
/* For connections there are and those to come. What a stall or a hole kept back flows again with PROXY_PASS, as
 * TCP would send it again; what a black hole swallowed is gone, so its connections are reset then. */
void proxy_set(proxy *p, proxy_mode mode, int value);
/* To all connections there are, now. */
void proxy_hit(proxy *p, proxy_fault fault, int value);
/* Connections taken so far. */
size_t proxy_count(proxy *p);
void proxy_close(proxy *p);

#endif
