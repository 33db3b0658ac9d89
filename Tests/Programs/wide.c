// Says to each who connects to which address a new bind(2) to the wildcard led. Usage: wide PORT
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
static int bound(int port)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
    int s = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(s, (struct sockaddr *)&any, sizeof(any)) != 0)
        exit(1);
    return s;
}
int main(int argc, char **argv)
{
    int listener = bound(atoi(argv[1]));
    listen(listener, 8);
    for (;;) {
        int client = accept(listener, 0, 0), s = bound(0);
        struct sockaddr_in name;
        socklen_t size = sizeof(name);
        getsockname(s, (struct sockaddr *)&name, &size);
        char *text = inet_ntoa(name.sin_addr);
        if (write(client, text, strlen(text)) < 0)
            return 1;
        close(s);
        close(client);
    }
}
