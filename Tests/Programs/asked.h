// What the self-checking services share: asked over TCP, they answer `OK`, or in one line what differs. Include it first.
#pragma once
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// The answer to be: what the check of a question has found.
static char differences[8192];

static void need(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static int listen_at(const char *address, const char *port) {
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    inet_pton(AF_INET, address, &name.sin_addr);
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    need(!bind(listener, (struct sockaddr *)&name, sizeof name) && !listen(listener, 4), "bind");
    return listener;
}

// One connection after another, for ever.
static void serve(int listener, void (*check)(const char *question)) {
    for (;;) {
        int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        char question[64] = "";
        while (client >= 0 && recv(client, question, sizeof question, 0) > 0) {
            differences[0] = 0;
            check(question);
            if (!differences[0]) strcpy(differences, "OK");
            strcat(differences, "\n");
            if (send(client, differences, strlen(differences), MSG_NOSIGNAL) < 0) break;
        }
        if (client >= 0) close(client);
    }
}
