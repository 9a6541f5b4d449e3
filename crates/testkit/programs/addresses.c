/* Prints the addresses of a name, a line each, as the C library that it is linked with finds them. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>

int main(int count, char **arguments) {
    struct addrinfo wanted = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found, *next;
    char text[INET_ADDRSTRLEN];
    int failed;

    if (count != 2) {
        fprintf(stderr, "usage: addresses NAME\n");
        return 2;
    }
    failed = getaddrinfo(arguments[1], NULL, &wanted, &found);
    if (failed) {
        fprintf(stderr, "%s: %s\n", arguments[1], gai_strerror(failed));
        return 1;
    }
    for (next = found; next; next = next->ai_next)
        puts(inet_ntop(AF_INET, &((struct sockaddr_in *)next->ai_addr)->sin_addr, text, sizeof text));
    freeaddrinfo(found);
    return 0;
}
